"""The fused operations as TensorRT embeds them: PTX compiled for any GPU, launched with the tensors and nothing else.

Compiling takes seconds a kernel and no GPU, so that processes of their own do it ahead of need.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gpu_cases import REGION, Sizes

from debiexport.environment import usable_cpus
from debiexport.errors import DebiexportError, MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor

    from debiexport.plugins.ptx import Ptx

MAX_PROCESSES = 8
_SUCCESS = 0


def kernel_of(operation: str) -> Any:
    """The Triton kernel of a fused operation."""
    if operation == REGION:
        from debiexport.plugins.region_attention.kernel import region_attention_kernel

        return region_attention_kernel
    from debiexport.plugins.agent_attention.kernel import agent_attention_kernel

    return agent_attention_kernel


def compile_ptx(operation: str, sizes: Sizes) -> Ptx:
    """The PTX of a configuration, as an engine holds it.

    Raises:
        DebiexportError: see `portable_ptx`.
    """
    from debiexport.plugins.ptx import portable_ptx

    return portable_ptx(kernel_of(operation), sizes.pointers, sizes.constants(), sizes.warps, sizes.stages)


class Compiler:
    """Compiles kernels in other processes.

    Args:
        executor: that does it; by default as many processes as there are CPUs to spare.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        spare = max(1, min(MAX_PROCESSES, (usable_cpus() or 2) - 1))
        self._executor = executor or ProcessPoolExecutor(spare, mp_context=get_context("spawn"))
        self._futures: dict[Any, Future[Ptx]] = {}

    def begin(self, operation: str, sizes: Sizes) -> Future[Ptx]:
        """Begin to compile a configuration; the number of images makes no other kernel."""
        key = (operation, sizes.pointers, tuple(sizes.constants().items()), sizes.warps, sizes.stages)
        if key not in self._futures:
            self._futures[key] = self._executor.submit(compile_ptx, operation, sizes)
        return self._futures[key]

    def ptx(self, operation: str, sizes: Sizes) -> Ptx:
        """The PTX of a configuration, once it is there.

        Raises:
            DebiexportError: it does not compile.
        """
        return self.begin(operation, sizes).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Launched:
    """A kernel that the driver has loaded, and how it is launched.

    Attributes:
        driver: `cuda.bindings.driver`.
        module, function: the driver's handles.
        ptx: that it was loaded from.
        grid: programs on the three axes.
    """

    driver: Any
    module: Any
    function: Any
    ptx: Ptx
    grid: tuple[int, int, int]

    @classmethod
    def load(cls, ptx: Ptx, grid: tuple[int, int, int], driver: Any = None) -> Launched:
        """Have the driver translate PTX for the current GPU.

        Raises:
            MissingDependencyError: the package cuda-bindings is not installed, or finds no driver.
            DebiexportError: the driver refuses the PTX.
        """
        driver = driver or import_driver()
        module = _call(driver, "cuModuleLoadData", ptx.text.encode() + b"\0")
        return cls(driver, module, _call(driver, "cuModuleGetFunction", module, ptx.name.encode()), ptx, grid)

    def __call__(self, tensors: Sequence[Tensor], stream: int) -> None:
        """Begin to run it.

        Args:
            tensors: inputs and then the output, contiguous and on the GPU.
            stream: the driver's handle of a stream.

        Raises:
            DebiexportError: the number of tensors is not the kernel's, or the driver refuses.
        """
        if len(tensors) != self.ptx.parameters:
            raise DebiexportError(f"{self.ptx.name} takes {self.ptx.parameters} tensors, given are {len(tensors)}")
        # The driver copies the parameters before it returns: they need not live longer.
        addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        each, size = ctypes.addressof(addresses), ctypes.sizeof(ctypes.c_void_p)
        parameters = (ctypes.c_void_p * len(tensors))(*(each + i * size for i in range(len(tensors))))
        _call(
            self.driver,
            "cuLaunchKernel",
            self.function,
            *self.grid,
            self.ptx.block_threads,
            1,
            1,
            self.ptx.shared_memory_bytes,
            self.driver.CUstream(stream),
            ctypes.addressof(parameters),
            0,
        )

    def close(self) -> None:
        """Give the module back to the driver."""
        _call(self.driver, "cuModuleUnload", self.module)


def import_driver() -> Any:
    """`cuda.bindings.driver`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from cuda.bindings import driver
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"launching PTX needs the package cuda-bindings ({error}): pip install cuda-bindings"
        ) from error
    return driver


def _call(driver: Any, name: str, *arguments: Any) -> Any:
    """The result of a function of the driver, None if it has none."""
    code, *results = getattr(driver, name)(*arguments)
    if int(code) != _SUCCESS:
        told = driver.cuGetErrorName(code)[1]
        known = told.decode(errors="replace") if isinstance(told, bytes) else str(code)
        raise DebiexportError(f"the CUDA driver refuses {name}: {known}; is it older than CUDA 12.0?")
    return results[0] if results else None
