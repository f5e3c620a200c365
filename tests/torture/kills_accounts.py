"""What producers and consumers write down, and whether each message is where it must be."""

from __future__ import annotations

from collections import Counter

from kills_crowd import TASKS, Crowd, Notes


class Sent:
    """What a producing task writes down: how many messages it has begun to send, and how many it has sent."""

    def __init__(self, notes: Notes, task: int) -> None:
        self._words = notes.words[notes.FIRST + 2 * task :][:2]

    @property
    def begun(self) -> int:
        return self._words[0]

    @property
    def sent(self) -> int:
        return self._words[1]

    def begins(self, count: int) -> None:
        self._words[0] += count

    def has_sent(self) -> None:
        self._words[1] = self._words[0]


class Received:
    """What a consuming task writes down: what it has received, and how many messages it may be taking."""

    SIZE = (Notes.SIZE - Notes.FIRST) // TASKS

    def __init__(self, notes: Notes, task: int) -> None:
        self._words = notes.words[notes.FIRST + self.SIZE * task :][: self.SIZE]

    @property
    def taking(self) -> int:
        return self._words[0]

    @taking.setter
    def taking(self, count: int) -> None:
        self._words[0] = count

    @property
    def messages(self) -> list[int]:
        return self._words[2 : 2 + self._words[1]].tolist()

    def add(self, message: int) -> None:
        self._words[2 + self._words[1]] = message
        self._words[1] += 1


def account(crowd: Crowd, left: list[int]) -> None:
    """Check that each message is where it must be."""
    arrived = Counter(left)
    may_be_missing = 0
    for member in crowd.all:
        if member.role == "consumer":
            for received in (Received(member.notes, task) for task in range(TASKS)):
                messages = received.messages
                arrived.update(messages)
                assert are_in_order(messages)
                if member in crowd.killed:
                    may_be_missing += received.taking
    assert [message for message, count in arrived.items() if count > 1] == []
    sent: set[int] = set()
    begun: set[int] = set()
    for member in crowd.all:
        if member.role == "producer":
            for task in range(TASKS):
                notes = Sent(member.notes, task)
                numbers = [(member.me.number * TASKS + task) << 32 | number for number in range(notes.begun)]
                begun.update(numbers)
                sent.update(numbers[: notes.sent])
    assert arrived.keys() <= begun
    missing = sent - arrived.keys()
    assert len(missing) <= may_be_missing, (missing, may_be_missing)
    crowd.counts["messages"] += len(arrived)
    crowd.counts["taken along"] += len(missing)


def are_in_order(messages: list[int]) -> bool:
    """Whether those of each producer are."""
    last: dict[int, int] = {}
    for each in messages:
        if last.get(each >> 32, -1) >= each:
            return False
        last[each >> 32] = each
    return True
