"""The reference AutoAttack (`pyautoattack`) on a PyTorch network, resumable, to compare ours with."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keras_robust.backend.torch import device_name, synchronize
from keras_robust.files import write_atomically


def run_reference(
    network: torch.nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    *,
    norm: str,
    epsilon: float,
    seed: int,
    batch_size: int,
    state_path: str | Path | None = None,
    channels_last: bool = False,
) -> dict[str, Any]:
    """Runs the reference's `standard` version attack by attack, each on what those before left.

    It runs on the GPU that PyTorch finds, network, images and labels; else on the CPU.

    Args:
        network: Takes images of shape `(batch, channels, height, width)`, returns logits.
        x: Clean images, shape `(images, height, width, channels)`, in [0, 1].
        y: Labels, shape `(images,)`.
        norm: Shape of the ball, 'Linf', 'L2' or 'L1'.
        epsilon: Radius in pixel units.
        seed: Seed of each attack.
        batch_size: Images a pass.
        state_path: JSON file written after each attack, from which a broken run goes on.
        channels_last: Memory format of the network.

    Returns:
        `accuracy_after`: accuracy after each attack, after `"clean"`; `seconds`: time of each attack;
        `robust`: whether each image is left, after each attack; `device`: where it ran, in words.

    Raises:
        ImportError: If pyautoattack is not installed.
    """
    from pyautoattack import AutoAttack

    network, images, labels = _in_format(network, x, y, channels_last)
    attack = AutoAttack(network, norm=norm, eps=epsilon, seed=seed, version="standard", device=images.device)
    path = None if state_path is None else Path(state_path)
    if path is not None and path.exists():
        state = json.loads(path.read_text(encoding="utf-8"))
    else:
        with torch.no_grad():
            parts = [network(part).argmax(1) for part in images.split(batch_size)]
        clean = (torch.cat(parts) == labels).tolist()
        state = {"accuracy_after": {"clean": float(np.mean(clean))}, "seconds": {}, "robust": {"clean": clean}}
    state["device"] = device_name()
    for name in list(attack.attacks_to_run):
        if name in state["robust"]:
            continue
        robust = np.array(state["robust"][list(state["robust"])[-1]])
        rows = np.flatnonzero(robust)
        begun = time.perf_counter()
        if len(rows):
            attack.attacks_to_run = [name]
            left = torch.as_tensor(rows, device=images.device)
            _, predicted = attack.run_standard_evaluation(images[left], labels[left], batch_size=batch_size)
            robust[rows] = predicted.cpu().numpy() == y[rows]
        state["seconds"][name] = round(time.perf_counter() - begun, 3)
        state["accuracy_after"][name] = float(robust.mean())
        state["robust"][name] = robust.tolist()
        if path is not None:
            write_atomically(path, json.dumps(state))
    return state


def bare_passes(
    network: torch.nn.Module, x: np.ndarray, y: np.ndarray, *, channels_last: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns functions that run one forward pass, and one gradient with respect to the images, to their end.

    Args:
        network: Takes images of shape `(batch, channels, height, width)`, returns logits.
        x: Images, shape `(batch, height, width, channels)`, in [0, 1].
        y: Labels, shape `(batch,)`.
        channels_last: Memory format of the network.
    """
    network, images, labels = _in_format(network, x, y, channels_last)

    def forward():
        with torch.no_grad():
            synchronize(network(images))

    def gradient():
        inputs = images.detach().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(network(inputs), labels, reduction="sum")
        synchronize(torch.autograd.grad(loss, inputs))

    return forward, gradient


def _in_format(network, x, y, channels_last):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = (_ChannelsLast(network) if channels_last else network).to(device)
    images = torch.tensor(x, device=device).permute(0, 3, 1, 2).contiguous()
    return network, images, torch.tensor(y, dtype=torch.long, device=device)


class _ChannelsLast(torch.nn.Module):
    """Runs a network in that memory format, and leaves the images of the attack in the usual one."""

    def __init__(self, network):
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.network(x.contiguous(memory_format=torch.channels_last))
