"""The lock: every declared dependency has one exact version for every platform and Python that README promises."""

import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLATFORMS = {
    "Linux x86-64": ("linux", "x86_64", "Linux", "posix"),
    "Linux on ARM": ("linux", "aarch64", "Linux", "posix"),
    "macOS": ("darwin", "arm64", "Darwin", "posix"),
    "Windows": ("win32", "AMD64", "Windows", "nt"),
}
PYTHONS = ("3.11", "3.12", "3.13")


def environment(platform: str, python: str) -> dict[str, str]:
    """What a marker asks about, on that machine."""
    names = ("sys_platform", "platform_machine", "platform_system", "os_name")
    return dict(zip(names, PLATFORMS[platform], strict=True)) | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def pins(where: dict[str, str]) -> dict[str, list[str]]:
    """The versions that the lock names on a machine, by package."""
    found: dict[str, list[str]] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert exact.operator == "==", line
            if pin.marker is None or pin.marker.evaluate(where):
                found.setdefault(canonicalize_name(pin.name), []).append(exact.version)
    return found


@pytest.mark.parametrize(("platform", "python"), list(product(PLATFORMS, PYTHONS)))
def test_every_declared_dependency_is_locked_within_its_bounds(platform, python):
    where = environment(platform, python)
    locked = pins(where)
    wanted = [one for one in declared() if one.marker is None or one.marker.evaluate(where)]
    assert {"torch", "mlxtend", "ray", "pytest"} <= {one.name for one in wanted}
    for one in wanted:
        versions = locked.get(canonicalize_name(one.name), [])
        assert len(versions) == 1, f"{one.name} has {len(versions)} versions in constraints.txt"
        assert one.specifier.contains(versions[0]), f"{one} excludes the locked {versions[0]}"


def test_procgen_bounds_numpy_where_it_runs_and_nowhere_else():
    for platform, python in product(PLATFORMS, PYTHONS):
        where = environment(platform, python)
        active = [one for one in declared() if one.marker is None or one.marker.evaluate(where)]
        procgen = any(one.name == "procgen-mirror" for one in active)
        assert procgen == (platform == "Linux x86-64" and python != "3.13")
        for name in ("numpy", "filelock"):
            bounded = any("<" in str(one.specifier) for one in active if one.name == name)
            assert bounded == procgen, (platform, python, name)


def test_the_lock_names_no_address_and_says_how_it_was_written():
    text = LOCK.read_text(encoding="utf-8")
    assert not re.search(r"://| @ |--index|--find-links", text)
    header = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    assert header[-1] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_readme_installs_with_the_lock():
    commands = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert all(" -c constraints.txt && " in command for command in commands)
