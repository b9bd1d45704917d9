"""Generators of random numbers: a seed and an offset in device memory.

A generator is two integers, so its state is cheap to store and to restore, and numbers are a function of (seed, offset,
index) alone: the same for any number of threads and any instruction set. Kernels advance the offset themselves, so a
recorded program draws new numbers each time it runs.

>>> lamina.manual_seed(1).get_state()
(1, 0)
>>> lamina.rand(3).shape, lamina.random.default_generator.get_state()
((3,), (1, 1))
"""

from __future__ import annotations

import numpy as np

from lamina import _C


class Generator:
    """A stream of Philox4x32-10 numbers.

    Each device has an offset of its own, which starts where that of the CPU stood when the device was first used.

    Args:
        seed: any integer; 64 bits of it count.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
    """

    def __init__(self, seed: int = 0):
        self.state = _C.from_numpy(_pack(seed, 0))  # (2,) int64 {seed, offset}: what ops on the CPU take as `state`
        self._elsewhere: dict[str, _C.Tensor] = {}

    def state_on(self, device: str) -> _C.Tensor:
        """The state that ops on that device take, made at first use."""
        if device == "cpu":
            return self.state
        if device not in self._elsewhere:
            self._elsewhere[device] = _C.to_device(self.state, device)
        return self._elsewhere[device]

    def manual_seed(self, seed: int) -> Generator:
        """Starts over from a seed, on all devices."""
        return self.set_state((seed, 0))

    def get_state(self) -> tuple[int, int]:
        """(seed, offset on the CPU); the offset counts tiles of 64 words of 32 bits."""
        seed, offset = self.state.tolist()
        return seed, offset

    def set_state(self, state: tuple[int, int]) -> Generator:
        """Continues from what ``get_state`` gave, on all devices. Recorded programs that use this generator follow.

        Raises: RuntimeError inside a recording.
        """
        if _C.is_recording():
            raise RuntimeError("set_state: a program is being recorded; expected seeds to be set outside of it")
        packed = _C.from_numpy(_pack(*state))
        for device, held in {"cpu": self.state, **self._elsewhere}.items():
            _C.copy_(held, _C.to_device(packed, device))
        return self

    def __repr__(self) -> str:
        return "Generator(seed={}, offset={})".format(*self.get_state())


def _pack(seed: int, offset: int) -> np.ndarray:
    return np.array([seed & (2**64 - 1), offset], np.uint64).view(np.int64)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator, which everything random uses where no ``generator`` is given."""
    return default_generator.manual_seed(seed)


def state_of(generator: Generator | None, device: str | None = None) -> _C.Tensor:
    """The state that an op takes: of ``generator`` or the default one, on ``device`` or where the thread works."""
    device = _C.current_device() if device is None else _C.check_device(device)
    return (default_generator if generator is None else generator).state_on(device)
