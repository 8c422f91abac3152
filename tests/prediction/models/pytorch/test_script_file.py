"""TorchScript that reaches files, or whose tensors are not complete."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import patchloom as pl

torch = pytest.importorskip("torch")


class Writes(torch.nn.Module):
    def forward(self, batch):
        torch.save(batch, "stolen.pt")
        return batch


class Maps(torch.nn.Module):
    def forward(self, batch):
        return batch + torch.from_file("overwritten", True, 4).fill_(1.0)[0]


class Loads(torch.nn.Module):
    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool) -> None:
        torch.save(torch.zeros(1), "stolen.pt")
        self.training = state

    def forward(self, batch):
        return batch


def write_script(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def changed(path: Path, ending: str, old: bytes | None, new: bytes) -> Path:
    """Replace a text, or the whole, of the members whose names have this ending."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            replaced = new if old is None else content.replace(old, new)
            archive.writestr(name, replaced if name.endswith(ending) else content)
    return path


@pytest.mark.parametrize("kind", [Writes, Maps, Loads])
def test_code(kind, tmp_path, monkeypatch):
    """A network that reads or writes files is refused before it is loaded, unless it is trusted."""
    monkeypatch.chdir(tmp_path)
    path = write_script(kind(), tmp_path / "net.ts")
    with pytest.raises(pl.ModelError, match=r"net.ts contains code that may read and write files .*trust=True"):
        pl.load_model(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.ts"]
    assert pl.load_model(path, trust=True)(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "call",
    [b'getattr(torch, "sa\\x76e")', b"torch . # save\n  save", b"torch.\\\n  save", b"ops.debugprims.load_tensor"],
)
def test_hidden_code(call, tmp_path):
    """No other spelling of it is overlooked."""
    path = changed(write_script(Writes(), tmp_path / "net.ts"), ".py", b"torch.save", call)
    with pytest.raises(pl.ModelError, match="contains code that may read and write files"):
        pl.load_model(path)


def test_trust_in_another_process(tmp_path, monkeypatch):
    """A network that is trusted is trusted where it is opened again."""
    monkeypatch.chdir(tmp_path)
    model = pl.load_model(write_script(Writes(), tmp_path / "net.ts"), trust=True)
    assert pickle.loads(pickle.dumps(model)).trust


@pytest.mark.parametrize("ending", ["/data/0", "constants.pkl", "data.pkl", ".debug_pkl"])
def test_damaged_parts(ending, tmp_path):
    """Parts by which PyTorch would end the process are refused, or not read."""
    write_script(torch.nn.Conv2d(1, 1, 3), tmp_path / "net.ts")
    changed(tmp_path / "net.ts", ending, None, b"")
    code = """
import patchloom as pl
try:
    pl.load_model("net.ts")
    print("loaded")
except pl.ModelError as error:
    print("refused" if "net.ts" in str(error) else error)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == ("loaded\n" if ending == ".debug_pkl" else "refused\n")


def test_changed_weight(tmp_path):
    """A weight that differs by one bit from what was saved is found, in all files of PyTorch."""
    write_script(torch.nn.Conv2d(1, 1, 3), tmp_path / "net.ts")
    torch.save(torch.nn.Conv2d(1, 1, 3).state_dict(), tmp_path / "net.pth")
    torch.export.save(torch.export.export(torch.nn.Conv2d(1, 1, 3), (torch.zeros(1, 1, 8, 8),)), tmp_path / "net.pt2")
    for name, ending in (("net.ts", "/data/0"), ("net.pth", "/data/0"), ("net.pt2", "weight_0")):
        content = (tmp_path / name).read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = next(member for member in archive.namelist() if member.endswith(ending))
            start = content.index(archive.read(member))
        (tmp_path / name).write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
        with pytest.raises(pl.ModelError, match=f"{name} is damaged"):
            pl.load_model(tmp_path / name)
