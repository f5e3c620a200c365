"""Five philosophers, five forks, one death.

    python examples/philosophers.py

Five processes sit around a table with five forks.  Each needs the two forks beside him to
eat.  If everybody took his left fork first and then waited for the right one, all would wait for ever.
Here the forks are a System V semaphore set, and a philosopher takes both in one operation, or none:

    await forks.operate((left, -1), (right, -1))

The set is opened with undo=True.  Plato falls asleep over his second meal, with two forks in his hands,
and is killed by SIGKILL, which leaves him no time to tidy up.  The kernel does that: it puts
his forks back on the table, and his neighbours, who were waiting for them, eat.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time

from aioipc.sysv import SemaphoreSet

NAMES = ["Socrates", "Plato", "Kant", "Hume", "Arendt"]
VICTIM = NAMES.index("Plato")
NEIGHBOURS = [VICTIM - 1, VICTIM + 1]
MEALS_AFTERWARDS = 2


# One philosopher: a process of his own. -------------------------------------------------


async def philosophize(set_id: int, seat: int) -> None:
    """Think and eat until SIGTERM says that dinner is over; tell on standard output what happens."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    left, right = seat, (seat + 1) % len(NAMES)
    meals = 0
    with SemaphoreSet.open(id=set_id, undo=True) as forks:
        while not over.is_set():
            await asyncio.sleep(random.uniform(0.01, 0.05))  # thinks
            print("hungry", flush=True)
            await forks.operate((left, -1), (right, -1))
            meals += 1
            if seat == VICTIM and meals == 2:
                print("asleep", flush=True)
                await asyncio.sleep(3600)
            print("eats", flush=True)
            await asyncio.sleep(random.uniform(0.01, 0.05))
            await forks.operate((left, 1), (right, 1))
            print("thinks", flush=True)


# The dinner: starts them, watches, and tells the story. ------------------------------------


class Dinner:
    def __init__(self) -> None:
        self.began = time.monotonic()
        self.states = ["thinks"] * len(NAMES)
        self.meals = [0] * len(NAMES)
        self.change = asyncio.Condition()

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.3f} s   {text}", flush=True)

    async def listen(self, seat: int, process: asyncio.subprocess.Process) -> None:
        """Follow what a philosopher does until he goes."""
        assert process.stdout is not None
        async for line in process.stdout:
            state = line.decode().strip()
            if state == "eats":
                self.meals[seat] += 1
                self.tell(f"{NAMES[seat]:9} eats with forks {seat} and {(seat + 1) % len(NAMES)}")
            async with self.change:
                self.states[seat] = state
                self.change.notify_all()
        async with self.change:
            self.states[seat] = "gone"
            self.change.notify_all()

    async def until(self, *expected: tuple[int, str]) -> None:
        async with self.change:
            while any(self.states[seat] != state for seat, state in expected):
                self.look_for_accidents()
                await self.change.wait()

    async def until_all_have_eaten(self, meals: list[int]) -> None:
        """Until all but the victim have had as many meals."""
        async with self.change:
            while any(self.meals[seat] < meals[seat] for seat in range(len(NAMES)) if seat != VICTIM):
                self.look_for_accidents()
                await self.change.wait()

    def look_for_accidents(self) -> None:
        for seat, state in enumerate(self.states):
            if state == "gone" and seat != VICTIM:
                raise RuntimeError(f"{NAMES[seat]} has left the table")


async def main() -> None:
    dinner = Dinner()
    processes: list[asyncio.subprocess.Process] = []
    with SemaphoreSet.create(None, values=[1] * len(NAMES)) as forks:
        print(f"{len(NAMES)} forks are on the table: semaphore set {forks.id}, see ipcs -s\n")
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for seat in range(len(NAMES)):
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, __file__, str(forks.id), str(seat)), stdout=asyncio.subprocess.PIPE
                    )
                    processes.append(process)
                    group.create_task(dinner.listen(seat, process))

                await dinner.until((VICTIM, "asleep"))
                dinner.tell(f"{NAMES[VICTIM]} has fallen asleep over his meal, with two forks in his hands")
                await dinner.until(*((seat, "hungry") for seat in NEIGHBOURS))
                names = " and ".join(NAMES[seat] for seat in NEIGHBOURS)
                dinner.tell(f"{names} are hungry and wait for his forks")
                meals = [count + MEALS_AFTERWARDS for count in dinner.meals]
                dinner.tell(f"{NAMES[VICTIM]} is killed by SIGKILL, and the kernel puts his forks back")
                processes[VICTIM].kill()
                await dinner.until_all_have_eaten(meals)
                dinner.tell("dinner is over")
                for seat, process in enumerate(processes):
                    if seat != VICTIM:
                        process.terminate()
                for process in processes:
                    await process.wait()
        finally:
            for process in processes:
                if process.returncode is None:  # only if something has failed
                    process.kill()
                    await process.wait()
        print()
        for name, count, process in zip(NAMES, dinner.meals, processes, strict=True):
            assert process.returncode is not None
            end = "went home" if process.returncode == 0 else signal.Signals(-process.returncode).name
            print(f"{name:9} {count} meals, {end}")
        print(f"forks on the table: {forks.values}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(philosophize(int(sys.argv[1]), int(sys.argv[2])))
    else:
        asyncio.run(main())
