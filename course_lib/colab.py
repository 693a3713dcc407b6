"""What the setup cell of every notebook calls (see `course_lib.build`)."""

import platform
from importlib import metadata


def report() -> str:
    """One line with the versions that matter and the GPU, if there is one.

    Returns:
        For example "course_lib 0.1.0, Python 3.13.15, NumPy 2.1.3, torch 2.11.0, GPU: Tesla T4".
    """
    import torch  # here, so that importing this module stays instant

    import course_lib

    gpu = f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    return (
        f"course_lib {course_lib.__version__}, Python {platform.python_version()}, "
        f"NumPy {metadata.version('numpy')}, torch {torch.__version__}, {gpu}"
    )
