"""The two ways to wait: the only modules of aioipc that know an event loop."""
