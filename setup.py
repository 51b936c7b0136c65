"""What pyproject.toml cannot say: the native library, left out where it cannot be compiled."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

spec = importlib.util.spec_from_file_location("native_build", Path("rp2k_lab", "native", "build.py"))
assert spec is not None
assert spec.loader is not None
native = importlib.util.module_from_spec(spec)  # rp2k_lab itself needs packages that are not installed yet
spec.loader.exec_module(native)


class BuildNative(build_ext):
    """Compile the library, which is no Python module, as `python -m rp2k_lab.native.build` does."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split(".")[:-1], native.LIBRARY.name))

    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            native.build(output)
        except native.BuildError as error:
            raise CompileError(str(error)) from None  # setuptools only warns: the extension is optional


def extensions():
    """Return the library as an extension, or nothing, for a wheel of any platform."""
    try:
        native.compiler()
    except native.BuildError:
        return []
    return [Extension("rp2k_lab.native.kernels", [], optional=True)]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
