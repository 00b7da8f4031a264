from __future__ import annotations

import logging
import sys
import warnings

import pytest

from debiexport.targets.quiet import quiet_exporter


def test_nothing_is_heard_and_all_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("torch.onnx")
    level, filters, streams = logger.level, list(warnings.filters), (sys.stdout, sys.stderr)

    def chatter() -> None:
        with quiet_exporter():
            print("out")
            print("err", file=sys.stderr)
            logger.warning("logged")
            warnings.warn("warned", stacklevel=1)
            raise RuntimeError("told")

    with pytest.raises(RuntimeError, match="told"):
        chatter()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert (logger.level, list(warnings.filters), (sys.stdout, sys.stderr)) == (level, filters, streams)
