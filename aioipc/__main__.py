"""python -m aioipc: the aioipc command."""

from aioipc.cli import main

if __name__ == "__main__":
    main()
