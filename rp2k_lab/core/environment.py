"""The process's environment: what may not change a run's numbers is forced, and what may is recorded.

Importing this module needs neither NumPy nor MindSpore: both read variables when they are imported.
"""

import io
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls

# MindSpore 2.10 compiles another program with these, runs none or a part of it, or runs without a graph.
_REMOVED = frozenset(
    {
        "MS_COMPILER_CACHE_PATH",
        "MS_DISABLE_KERNEL_BACKOFF",
        "MS_DRY_RUN",
        "MS_ENABLE_FORMAT_MODE",
        "MS_FORMAT_MODE",
        "MS_JIT",
        "MS_JIT_IGNORE_MODULES",
        "MS_JIT_MODULES",
        "MS_KERNEL_LAUNCH_SKIP",
        "MS_SIMULATION_LEVEL",
        "MS_SYMBOL_ENGINE_OPTIMIZE",
    }
)
# Switches of MindSpore's developers, without documentation: about forty change how a program is compiled.
_REMOVED_PREFIX = "MS_DEV_"
# MindSpore's cache of compiled programs is found by the code alone: a run with `loss.label_smoothing=0.0` after one
# with 0.5 trained with 0.5.  oneDNN may compute float32 layers in bfloat16 where the processor has it.
_FORCED = {
    "MS_COMPILER_CACHE_ENABLE": "0",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
}
# Highest instructions that oneDNN may use, and the variable with the value that this project gave it, for processes
# that inherit both.
INSTRUCTIONS, _OUR_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA", "RP2K_LAB_MAX_CPU_ISA"
DEFAULT_INSTRUCTIONS = "AVX2"
# Variables of the libraries that compute; a record has those that are set.
_PREFIXES = (
    *("MS_", "MINDSPORE_", "ONEDNN_", "DNNL_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "NPY_"),
    *("OPENCV_", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_TF32_", "NCCL_", "ASCEND_", "HCCL_", "GLIBC_TUNABLES"),
    "RP2K_LAB_NATIVE",
)
# What `msrun` gives its processes, on Ascend the last three.
LAUNCHER = frozenset(
    {
        *("MS_ROLE", "MS_NODE_ID", "MS_NODE_TIMEOUT", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_WORKER_NUM"),
        *("MS_WORKER_IP", "MS_TOPO_TIMEOUT", "MS_CLUSTER_ROOT", "MS_RECEIVE_MSG_TIMEOUT"),
        *("RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE"),
    }
)
# Of the recorded variables, what is another one in each process or on each machine, or only logs.
_WITHOUT_EFFECT = LAUNCHER | frozenset(
    {
        "OPENCV_LOG_LEVEL",
        *("HCCL_CONNECT_TIMEOUT", "KMP_DUPLICATE_LIB_OK"),  # MindSpore 2.10 sets them when it is imported
        *("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "CUDNN_HOME"),
        *("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH"),
        "RP2K_LAB_NATIVE",  # rp2k_lab.native.state() says what it led to
    }
)
# Encoding of the terminal, from a process to the one that replaces it.
_STREAM_ENCODING = "RP2K_LAB_STREAM_ENCODING"


def force(environment: MutableMapping[str, str]) -> tuple[str, ...]:
    """Force the variables that may not change a run's numbers; return `NAME=value` of each lost value, sorted.

    Call it before MindSpore is imported.
    """
    if (ours := environment.pop(_OUR_INSTRUCTIONS, None)) and ours == environment.get(INSTRUCTIONS):
        del environment[INSTRUCTIONS]  # of a parent process; `limit_instructions` decides again
    doomed = {name for name in environment if name in _REMOVED or name.startswith(_REMOVED_PREFIX)}
    lost = {name: environment.pop(name) for name in doomed}
    for name, value in _FORCED.items():
        if environment.get(name, value).upper() != value:
            lost[name] = environment[name]
        environment[name] = value
    return tuple(f"{name}={lost[name]}" for name in sorted(lost))


def limit_instructions(environment: MutableMapping[str, str], is_native: bool) -> None:
    """Keep oneDNN, unless the user has chosen, from the instructions that are slow without the native kernels.

    On processors with AVX-512, oneDNN (inside MindSpore 2.10) sends float32 NCHW convolutions to its reference kernel;
    its AVX2 kernels are many times faster (benchmarks/train_step.py measures the ratio).

    Args:
        is_native: whether the native kernels are on; then oneDNN chooses by the processor.
    """
    if not is_native and INSTRUCTIONS not in environment:
        environment[INSTRUCTIONS] = environment.get("DNNL_MAX_CPU_ISA", DEFAULT_INSTRUCTIONS)  # DNNL_: its former name
        environment[_OUR_INSTRUCTIONS] = environment[INSTRUCTIONS]


def variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of the libraries that compute, sorted by name."""
    return {name: environment[name] for name in sorted(environment) if name.startswith(_PREFIXES)}


def variables_with_effect(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `variables` without those of a process's place and of logs: the others may change a run's numbers."""
    found = variables(environment)
    return {name: found[name] for name in found if name not in _WITHOUT_EFFECT and name not in _FORCED}


def cores() -> int:
    """Return the number of cores that this process may use.

    MindSpore 2.10 splits its sums over as many threads on CPU, so another number gives other bits.  It obeys
    `taskset`, but not OMP_NUM_THREADS; a container's quota was not tried.
    """
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Return the processor's name; libraries choose their instructions by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return os.uname().machine
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, os.uname().machine)


def prepare_process(ignored: Sequence[str]) -> None:
    """Say which variables are ignored, and use UTF-8; call it at the start of a command.

    Args:
        ignored: the result of `force`.
    """
    if ignored:
        listed = escape_controls(redact(", ".join(ignored)))
        print(f"environment: {listed} ignored: not part of a run's record, may change its numbers", file=sys.stderr)
    use_utf8()


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding of file names.

    Files and records have UTF-8 names on every machine; with LC_ALL=zh_CN.GBK Python reads other characters from them.
    Child processes inherit it.  Standard streams keep the terminal's encoding, and print what it lacks as \\uNNNN.
    """
    is_utf8 = sys.getfilesystemencoding().lower() in ("utf-8", "utf8")
    if not is_utf8 and os.environ.get("PYTHONUTF8") != "1":  # with -E Python ignores the variable
        encoding = getattr(sys.stdout, "encoding", None) or ""
        # All as bytes: text in another encoding may not become the same bytes again.
        environment = {**os.environb, b"PYTHONUTF8": b"1", _STREAM_ENCODING.encode(): encoding.encode()}
        arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
        # A name without its folder would lose the virtual environment.
        os.execve(sys.executable, [os.fsencode(sys.executable), *arguments], environment)
    encoding = os.environ.pop(_STREAM_ENCODING, None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a stream of tests or notebooks
            own = None if "PYTHONIOENCODING" in os.environ else encoding
            stream.reconfigure(encoding=own or stream.encoding, errors="backslashreplace")
