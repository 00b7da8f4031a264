"""A plugin for TensorRT, ahead of time: an engine embeds its kernel as PTX and needs neither Python nor a library.

NVIDIA's plugin layer (`tensorrt.plugin`) reads from the signatures of three functions what a plugin takes, and calls
them while an engine is built. Here they follow from the plugin's interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

from .interface import NAMESPACE, Interface, KernelSizes


def register_ahead_of_time(trtp: Any, interface: Interface, kernel: Callable[[], Any]) -> None:
    """Make one plugin known to TensorRT; once it is, nothing happens.

    Args:
        trtp: the module tensorrt.plugin.
        interface: of the plugin.
        kernel: gives the Triton kernel; called when an engine is built, so that registering needs no Triton.
    """
    if is_registered(trtp, interface):
        return
    count = len(interface.inputs)

    def describe(*tensors: Any, **attributes: int) -> Any:
        """The output; called with types alone first, and then with shapes."""
        element = interface.element_type([tensor.dtype for tensor in tensors])
        interface.check_attributes(attributes)
        if not any(side.is_fake for tensor in tensors for side in tensor.shape_expr):
            shapes = [_constants(tensor.shape_expr) for tensor in tensors]
            interface.sizes_of(shapes, element, attributes)
        return tensors[0].like()

    def autotune(*arguments: Any) -> Any:
        """Types, layouts and tactics; the types are the network's own, since TensorRT changes none."""
        element, sizes = _use(interface, arguments[:count], arguments[count:-1])
        types = ", ".join(interface.types(element))
        return [trtp.AutoTuneCombination(types, "LINEAR", tactics(sizes, interface.configurations))]

    def implement(*arguments: Any) -> Any:
        """The kernel as PTX, and its launch; the attributes come in the order that `describe` has seen."""
        from .ptx import portable_ptx

        _, sizes = _use(interface, arguments[:count], arguments[count:-2])
        sizes = sizes.with_configuration(arguments[-1] - 1)
        ptx = portable_ptx(kernel(), sizes.pointers, sizes.constants(), sizes.warps, sizes.stages)
        launch = trtp.KernelLaunchParams()
        launch.grid_x, launch.grid_y, launch.grid_z = sizes.grid
        launch.block_x = ptx.block_threads
        launch.shared_mem = ptx.shared_memory_bytes
        return ptx.name, ptx.text, launch, trtp.SymIntExprs(0)

    tensors = dict.fromkeys(interface.inputs, trtp.TensorDesc)
    arguments = tensors | dict.fromkeys(interface.attributes, int)
    outputs = {"outputs": tuple[trtp.TensorDesc]}
    made = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    plugin = interface.plugin_id
    trtp.register(plugin)(_signed(describe, arguments, trtp.TensorDesc))
    trtp.autotune(plugin)(_signed(autotune, arguments | outputs, list[trtp.AutoTuneCombination]))
    trtp.aot_impl(plugin)(_signed(implement, arguments | outputs | {"tactic": int}, made))


def is_registered(trtp: Any, interface: Interface) -> bool:
    """Whether the plugin layer knows the plugin."""
    return hasattr(trtp.op, NAMESPACE) and hasattr(getattr(trtp.op, NAMESPACE), interface.name)


def tactics(sizes: KernelSizes, configurations: int) -> list[int]:
    """Configurations that launch different kernels, as tactics; those count from 1, since 0 is TensorRT's default."""
    kernels: dict[Any, int] = {}
    for index in range(configurations):
        one = sizes.with_configuration(index)
        kernels.setdefault((tuple(one.constants().items()), one.grid, one.warps, one.stages), index + 1)
    return list(kernels.values())


def _use(interface: Interface, tensors: Sequence[Any], values: Sequence[int]) -> tuple[str, KernelSizes]:
    """What `ELEMENT` stands for in one use, and its sizes."""
    element = interface.element_type([tensor.dtype for tensor in tensors])
    attributes = dict(zip(interface.attributes, values, strict=True))
    return element, interface.sizes_of([tuple(tensor.shape) for tensor in tensors], element, attributes)


def _constants(shape: Any) -> list[int | None]:
    """A symbolic shape's dimensions; None is one that is not known when the engine is built."""
    return [side.constant_value() if side.is_constant else None for side in shape]


def _signed(function: Any, parameters: Mapping[str, Any], returns: Any) -> Any:
    """The function with a signature for the plugin layer to read."""
    kind = Parameter.POSITIONAL_OR_KEYWORD
    signed = [Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = Signature(signed, return_annotation=returns)
    return function
