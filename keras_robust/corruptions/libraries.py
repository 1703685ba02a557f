"""Libraries that only corruptions and their readers need, imported when they are used."""

from types import ModuleType


def pillow() -> ModuleType:
    """Returns `PIL.Image`; raises `ImportError` with the remedy where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("JPEG, pixelate and image folders need Pillow. " + _REMEDY) from error
    return Image


def opencv() -> ModuleType:
    """Returns `cv2`; raises `ImportError` with the remedy where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("ImageNet-P's videos need OpenCV. " + _REMEDY) from error
    return cv2


_REMEDY = "Install it with: pip install 'keras-robust[corruptions]'"
