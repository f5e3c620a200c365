/* What the programs at the other end have in common. */
#ifndef AIOIPC_PEER_H
#define AIOIPC_PEER_H

#include <stdio.h>
#include <stdlib.h>

/* The result of a call; one that failed ends the program with its name. */
static inline long
check(const char *call, long result)
{
    if (result == -1) {
        perror(call);
        exit(1);
    }
    return result;
}

#endif
