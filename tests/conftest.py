"""Small networks that every test can afford, and one exported bundle of each kind.

The tiny cards have S = 2 and images of 64 pixels, so their maps are 16, 8, 4 and 2 tokens wide.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from debiexport.cards import Card, parse_card

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRT

# On small networks a second thread gains nothing, and on a busy machine waiting for it costs a lot.
torch.set_num_threads(1)
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # for the processes that tests start

_TAIL = """
[preprocessing]
resize = 72
crop = 64
interpolation = "bicubic"
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.25, 0.3]

[provenance]
paper = "none"
checkpoint = "none"
"""


def tiny_debi_toml() -> str:
    """A DeBiFormer of 60 thousand parameters, groups and top-k different in every stage."""
    text = 'name = "tiny_debi"\nfamily = "debiformer"\nS = 2\nnum_classes = 6\n'
    bra = (1, 2, 3, None)
    for i, (c, g, dbra, r, k) in enumerate(((8, 1, 2, 8, 9), (16, 2, 1, 4, 7), (16, 2, 3, 2, 5), (32, 4, 4, 1, 3))):
        kinds = '["bra", "dbra"]' if bra[i] else '["dbra", "dbra"]'
        text += f"\n[[stages]]\nblocks = {2 if i == 2 else 1}\nC = {c}\nhead_width = 8\nattention = {kinds}\n"
        text += f"bra_top_k = {bra[i]}\n" if bra[i] else ""
        text += f"dbra_top_k = {dbra}\nr = {r}\nG = {g}\nK = {k}\nq = {(16, 8, 4, 3)[i]}\n"
        text += f"mlp_ratio = {3 - i % 2}\ndbra_mlp_ratio = {1 + i % 2}\n"
    return text + _TAIL


def tiny_wide_toml() -> str:
    """A DeBiFormer with heads of 16 channels, the narrowest that the kernels take; groups that divide the heads."""
    text = 'name = "tiny_wide"\nfamily = "debiformer"\nS = 2\nnum_classes = 6\n'
    bra = (1, 2, 3, None)
    for i, (c, g, dbra, r, k) in enumerate(((16, 1, 2, 8, 9), (32, 2, 1, 4, 7), (32, 1, 3, 2, 5), (64, 4, 4, 1, 3))):
        kinds = '["bra", "dbra"]' if bra[i] else '["dbra", "dbra"]'
        text += f"\n[[stages]]\nblocks = 1\nC = {c}\nhead_width = 16\nattention = {kinds}\n"
        text += f"bra_top_k = {bra[i]}\n" if bra[i] else ""
        text += f"dbra_top_k = {dbra}\nr = {r}\nG = {g}\nK = {k}\nq = {(16, 8, 4, 3)[i]}\n"
        text += f"mlp_ratio = {3 - i % 2}\ndbra_mlp_ratio = {1 + i % 2}\n"
    return text + _TAIL


def tiny_bi_toml(family: str = "biformer") -> str:
    """A BiFormer, in either layout."""
    text = f'name = "tiny_{family}"\nfamily = "{family}"\nS = 2\nnum_classes = 6\n'
    for i, c in enumerate((8, 16, 16, 32)):
        text += f"\n[[stages]]\nblocks = {1 + i % 2}\nC = {c}\nhead_width = 8\nmlp_ratio = 2\n"
        text += f'attention = ["bra"]\nbra_top_k = {i + 1}\n' if i < 3 else 'attention = ["full"]\n'
    return text + _TAIL


def tiny_seg_toml() -> str:
    """The tiny DeBiFormer as a dense backbone."""
    text = tiny_debi_toml().replace('"tiny_debi"', '"tiny_seg"')
    return text.replace("num_classes = 6", 'outputs = "features"\nimage_size = [64, 96]')


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    return parse_card(tiny_debi_toml().encode(), "tiny_debi.toml")


@pytest.fixture(scope="session")
def tiny_wide_card() -> Card:
    return parse_card(tiny_wide_toml().encode(), "tiny_wide.toml")


@pytest.fixture(scope="session")
def tiny_bi_card() -> Card:
    return parse_card(tiny_bi_toml().encode(), "tiny_bi.toml")


@pytest.fixture(scope="session")
def tiny_stl_card() -> Card:
    return parse_card(tiny_bi_toml("biformer_stl").encode(), "tiny_stl.toml")


@pytest.fixture(scope="session")
def tiny_seg_card() -> Card:
    return parse_card(tiny_seg_toml().encode(), "tiny_seg.toml")


@pytest.fixture(scope="session")
def tiny_card_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny DeBiFormer card as a file, for the command line."""
    path = tmp_path_factory.mktemp("cards") / "tiny_debi.toml"
    path.write_text(tiny_debi_toml())
    return path


@pytest.fixture(scope="session")
def _dynamic_bundle(tiny_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_onnx

    folder = tmp_path_factory.mktemp("bundles") / "dynamic"
    return export_onnx(tiny_card, image_size=64, batch=None, output=folder).path


@pytest.fixture(scope="session")
def _static_bundle(tiny_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_onnx

    folder = tmp_path_factory.mktemp("bundles") / "static"
    return export_onnx(tiny_card, image_size=64, batch=3, output=folder).path


@pytest.fixture
def dynamic_bundle(_dynamic_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the tiny DeBiFormer (64 px, random weights, any batch) that a test may spoil."""
    return Path(shutil.copytree(_dynamic_bundle, tmp_path / "dynamic"))


@pytest.fixture
def static_bundle(_static_bundle: Path, tmp_path: Path) -> Path:
    """The same network with a batch of 3."""
    return Path(shutil.copytree(_static_bundle, tmp_path / "static"))


@pytest.fixture(scope="session")
def _seg_bundle(tiny_seg_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_onnx

    return export_onnx(tiny_seg_card, batch=2, output=tmp_path_factory.mktemp("bundles") / "seg").path


@pytest.fixture(scope="session")
def _uint8_bundle(tiny_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_onnx

    folder = tmp_path_factory.mktemp("bundles") / "uint8"
    return export_onnx(tiny_card, image_size=64, batch=None, input="uint8", output=folder).path


@pytest.fixture
def seg_bundle(_seg_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the tiny dense backbone (64 x 96 px, random weights, a batch of 2) that a test may spoil."""
    return Path(shutil.copytree(_seg_bundle, tmp_path / "seg"))


@pytest.fixture
def uint8_bundle(_uint8_bundle: Path, tmp_path: Path) -> Path:
    """The bundle of `dynamic_bundle`, but it takes bytes."""
    return Path(shutil.copytree(_uint8_bundle, tmp_path / "uint8"))


@pytest.fixture(scope="session")
def _coreml_bundle(tiny_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_coreml

    return export_coreml(tiny_card, image_size=64, output=tmp_path_factory.mktemp("bundles") / "coreml").path


@pytest.fixture
def coreml_bundle(_coreml_bundle: Path, tmp_path: Path) -> Path:
    """A Core ML bundle of the tiny DeBiFormer (64 px, random weights, fp16, a batch of 1) that a test may spoil."""
    return Path(shutil.copytree(_coreml_bundle, tmp_path / "coreml"))


@pytest.fixture
def kept_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's exporter makes of a network is kept for the other tests that convert the same one."""
    import kept_conversions

    kept_conversions.keep(monkeypatch)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT on an NVIDIA L4, as the tests have them."""
    return _put_fakes(monkeypatch)


def _put_fakes(patch: pytest.MonkeyPatch) -> FakeTensorRT:
    from fake_cuda import FakeCuda
    from fake_tensorrt import FakeTensorRT

    from debiexport.runtimes import cuda

    gpu = FakeCuda("NVIDIA L4")
    module = FakeTensorRT(gpu)
    patch.setattr(cuda, "import_cuda_runtime", lambda: gpu)
    patch.setitem(sys.modules, "tensorrt", module)
    patch.setitem(sys.modules, "tensorrt.plugin", module.plugin)
    return module


@pytest.fixture(scope="session")
def _tensorrt_bundle(tiny_wide_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export_tensorrt(tiny_wide_card, tmp_path_factory, "tensorrt", engine="rtx")


@pytest.fixture(scope="session")
def _plugins_bundle(tiny_wide_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export_tensorrt(tiny_wide_card, tmp_path_factory, "plugins", engine="rtx", plugins=True)


@pytest.fixture(scope="session")
def _engine_bundle(tiny_bi_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.targets.tensorrt.profile import Profile

    with pytest.MonkeyPatch.context() as patch:
        _put_fakes(patch)
        batches = [Profile(1, 2, 4)]
        return _export_tensorrt(tiny_bi_card, tmp_path_factory, "engine", engine="tensorrt", batches=batches)


def _export_tensorrt(card: Card, folders: pytest.TempPathFactory, name: str, **options: Any) -> Path:
    import kept_conversions

    from debiexport.export import export_tensorrt

    for package in ("onnx_graphsurgeon", *(["tensorrt_rtx"] if options["engine"] == "rtx" else [])):
        if find_spec(package) is None:  # not importorskip: the library belongs in processes of its own
            pytest.skip(f"{package} is not installed")
    with pytest.MonkeyPatch.context() as patch:
        kept_conversions.keep(patch)
        return export_tensorrt(card, image_size=64, output=folders.mktemp("bundles") / name, **options).path


@pytest.fixture
def tensorrt_bundle(_tensorrt_bundle: Path, tmp_path: Path) -> Path:
    """A TensorRT bundle of the wide DeBiFormer (64 px, random weights, fp16, a batch of 1) that a test may spoil; its
    engine is of TensorRT for RTX, for sm89."""
    return Path(shutil.copytree(_tensorrt_bundle, tmp_path / "tensorrt"))


@pytest.fixture
def plugins_bundle(_plugins_bundle: Path, tmp_path: Path) -> Path:
    """The same network with fused operations and without an engine."""
    return Path(shutil.copytree(_plugins_bundle, tmp_path / "plugins"))


@pytest.fixture
def engine_bundle(_engine_bundle: Path, tmp_path: Path) -> Path:
    """A TensorRT bundle of the tiny BiFormer (64 px, fp16), whose engine for batches of 1 to 4 the fakes built."""
    return Path(shutil.copytree(_engine_bundle, tmp_path / "engine"))


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """The message of an exception, which must be one line."""

    def check(error: BaseException) -> str:
        text = str(error)
        assert text.strip()
        assert "\n" not in text
        return text

    return check
