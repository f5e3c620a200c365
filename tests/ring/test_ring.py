"""The ring of a channel, in C alone: each function, threads, processes that are killed, and what can't be right."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RING = HERE.parent.parent / "aioipc" / "_ring"
SOURCES = [str(RING / name) for name in ("bells.c", "file.c", "peek.c", "peers.c", "ring.c")]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
KINDS = {
    "plain": ["-O2"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    # It does not know fences, and the ring uses them only between atomics.
    "tsan": ["-O1", "-g", "-fsanitize=thread", "-Wno-tsan"],
}
# Where the tests themselves run under a sanitizer, these programs have their own.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

Build = Callable[[str, str], str]


def compile_ring(sources: list[str], kind: str, program: Path) -> None:
    flags = ["-std=c11", "-D_GNU_SOURCE", "-pthread", *WARNINGS, *KINDS[kind]]
    if kind == "tsan" and subprocess.run(["cc", "--version"], capture_output=True, check=True).stdout.count(b"clang"):
        flags.remove("-Wno-tsan")
    subprocess.run(["cc", *flags, *sources, "-o", str(program)], check=True, env=ENVIRONMENT)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes a program of this folder, once for each kind."""
    folder = tmp_path_factory.mktemp("ring")
    works: dict[str, bool] = {}

    def make(name: str, kind: str) -> str:
        if kind not in works:
            works[kind] = kind == "plain" or can_be_used(kind, folder)
        if not works[kind]:
            pytest.skip(f"the compiler has no {kind} here")
        program = folder / f"{name}-{kind}"
        if not program.exists():
            compile_ring([str(HERE / f"{name}.c"), *SOURCES], kind, program)
        return str(program)

    return make


def can_be_used(kind: str, folder: Path) -> bool:
    """Whether this sanitizer is installed, and runs on this kernel."""
    source, program = folder / "empty.c", folder / f"empty-{kind}"
    source.write_text("int main(void) { return 0; }\n")
    try:
        compile_ring([str(source)], kind, program)
    except subprocess.CalledProcessError:
        return False
    return subprocess.run([str(program)], capture_output=True, env=ENVIRONMENT, check=False).returncode == 0


@pytest.fixture
def run(build: Build, tmp_path: Path, rng: random.Random) -> Callable[..., None]:
    """Runs a program, with a seed of this test's."""

    def call(name: str, kind: str, *args: object) -> None:
        command = [build(name, kind), *map(str, args)]
        if args:
            command += ["--seed", str(rng.randrange(2**32))]
        result = subprocess.run(
            command, capture_output=True, text=True, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)}, check=False
        )
        print(result.stdout)
        assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}{result.stderr}"
        assert list(tmp_path.iterdir()) == []

    return call


@pytest.mark.parametrize("kind", ["plain", "asan"])
def test_each_function(run: Callable[..., None], kind: str) -> None:
    run("ring_test", kind)


@pytest.mark.parametrize("capacity", [1000, 4096, 2**20])
@pytest.mark.parametrize("kind", list(KINDS))
def test_threads(run: Callable[..., None], races: int, kind: str, capacity: int) -> None:
    run("ring_stress", kind, "threads", "--messages", races, "--capacity", capacity)


def test_no_wake_up_is_lost_when_all_wait_for_the_same(run: Callable[..., None], races: int) -> None:
    for capacity in 1000, 4096:
        run("ring_stress", "plain", "threads", "--messages", races, "--capacity", capacity, "--equal", 1)


@pytest.mark.parametrize(("kind", "capacity"), [("plain", 1000), ("plain", 65536), ("asan", 4096)])
def test_processes_that_are_killed_and_stopped(run: Callable[..., None], races: int, kind: str, capacity: int) -> None:
    run("ring_stress", kind, "processes", "--kills", max(10, races // 200), "--capacity", capacity)


@pytest.mark.parametrize("kind", ["plain", "asan"])
def test_headers_that_are_wrong(run: Callable[..., None], races: int, kind: str) -> None:
    run("ring_fuzz", kind, "header", "--count", races * 10)


@pytest.mark.parametrize("kind", ["plain", "asan"])
def test_what_others_have_overwritten(run: Callable[..., None], races: int, kind: str) -> None:
    run("ring_fuzz", kind, "shared", "--count", races * 10)
