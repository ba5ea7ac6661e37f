"""A device that is not there: memory at made-up addresses, streams whose work waits, a clock.

Every address is looked up before it is used, and nothing that is put into a stream happens before
somebody waits for it: who reads too early, or writes too early into what is still to be copied,
gets what he would get on a device.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

FIRST, ALIGNED = 0x7F00_0000_0000, 512
"""Where device memory begins, and what its addresses are multiples of."""


class OutOfMemory(Exception):
    """There is not so much left."""


@dataclass
class Allocation:
    """Memory of the device; `version` counts the writes into it, `filled` is the last one that made
    all of it equal."""

    address: int
    data: Bytes
    version: int = 0
    filled: tuple[int, int] | None = None


@dataclass
class Work:
    """Something in a stream, which takes so many nanoseconds."""

    run: Callable[[], None]
    takes: int


@dataclass
class Stream:
    """Work in order. While it is captured, work goes into the graph and does not run."""

    number: int
    waiting: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None

    def put(self, run: Callable[[], None], takes: int = 1000) -> None:
        (self.waiting if self.captured is None else self.captured).append(Work(run, takes))


@dataclass
class Machine:
    """What the fakes of CUDA and TensorRT work on.

    Attributes:
        name, sm, memory: of the device; memory in bytes.
        tensorrt: its version.
        plans: the form of engines that it reads and writes, of which versions do not tell.
        driver: for which CUDA, 13020 for 13.2; 0: there is none.
        devices: how many there are.
        refused: how many allocations there may be, as where memory is in pieces.
        broken: ops that no engine can be built with.
        uncapturable: whether TensorRT refuses to be part of a graph.
        takes: nanoseconds that a network with these ops runs.
        now: the clock, in nanoseconds.
        builds: of the engines, the ops that they were built with.
        launches: of graphs.
    """

    name: str = "Orin"
    sm: int = 87
    memory: int = 8 << 30
    tensorrt: str = "10.16.2"
    plans: int = 1
    driver: int = 13020
    devices: int = 1
    refused: int | None = None
    broken: frozenset[str] = frozenset()
    uncapturable: bool = False
    takes: Callable[[frozenset[str]], int] = lambda ops: 100_000
    now: int = 0
    builds: list[frozenset[str]] = field(default_factory=list)
    launches: int = 0
    runs: int = 0
    allocations: dict[int, Allocation] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    _addresses: list[int] = field(default_factory=list)
    _next: int = FIRST

    @property
    def used(self) -> int:
        return sum(a.data.size for a in self.allocations.values())

    def allocate(self, nbytes: int) -> int:
        full = self.refused is not None and len(self.allocations) >= self.refused
        if full or self.used + nbytes > self.memory:
            raise OutOfMemory
        address = self._next
        self._next += (nbytes // ALIGNED + 2) * ALIGNED  # a gap behind each
        junk = np.full(nbytes, 0xFF, np.uint8)  # not a number, in any float
        self.allocations[address] = Allocation(address, junk)
        bisect.insort(self._addresses, address)
        return address

    def free(self, address: int) -> bool:
        """Waits for the device, as CUDA does."""
        for stream in self.streams.values():
            self.wait(stream)
        if self.allocations.pop(address, None) is None:
            return False
        self._addresses.remove(address)
        return True

    def allocate_pinned(self, nbytes: int) -> int:
        buffer = ctypes.create_string_buffer(nbytes)
        address = ctypes.addressof(buffer)
        self.pinned[address] = buffer
        return address

    def find(self, address: int, nbytes: int) -> Allocation:
        """The allocation that these bytes lie in, all of them."""
        at = bisect.bisect_right(self._addresses, address) - 1
        assert at >= 0, f"{address:#x} is no address of the device"
        found = self.allocations[self._addresses[at]]
        end = found.address + found.data.size
        assert address + nbytes <= end, f"{nbytes} bytes at {address:#x} reach beyond {end:#x}"
        return found

    def read(self, address: int, nbytes: int) -> Bytes:
        """A view."""
        found = self.find(address, nbytes)
        start = address - found.address
        return found.data[start : start + nbytes]

    def write(self, address: int, data: Bytes) -> None:
        found = self.find(address, data.size)
        start = address - found.address
        found.data[start : start + data.size] = data
        found.version += 1

    def fill(self, address: int, value: int, nbytes: int) -> None:
        """A write that is left out where it would change nothing."""
        found = self.find(address, nbytes)
        if found.filled == (found.version, value):
            return
        self.read(address, nbytes)[:] = value
        found.version += 1
        found.filled = (found.version, value) if nbytes == found.data.size else None

    def is_pinned(self, address: int, nbytes: int) -> bool:
        return any(a <= address <= a + len(b) - nbytes for a, b in self.pinned.items())

    def host(self, address: int, nbytes: int) -> Bytes:
        """A view of host memory."""
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)

    def stream(self, number: int) -> Stream:
        assert number in self.streams, f"there is no stream {number:#x}"
        return self.streams[number]

    def wait(self, stream: Stream) -> None:
        """Lets all that waits in a stream happen."""
        while stream.waiting:
            work = stream.waiting.pop(0)
            work.run()
            self.now += work.takes
