"""The FID network in PyTorch, with random weights, written from its public description.

pytorch-fid's own module needs torchvision, so this one uses the names of its state dict and its
operators: torch's convolutions, pools and `interpolate`.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ConvUnit(nn.Module):
    def __init__(self, before, after, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def halve(x):
    return F.max_pool2d(x, 3, stride=2)


class Branches(nn.Module):
    """Chains of units on a shared input; `{name: (first input or branch, *settings)}`."""

    def __init__(self, units, outputs, pool):
        super().__init__()
        self.inputs, self.outputs, self.pool = {}, outputs, pool
        for name, (source, *settings) in units.items():
            self.inputs[name] = source
            self.add_module(name, ConvUnit(*settings))

    def forward(self, x):
        made = {"x": x, "pool": self.pool(x)}
        for name, source in self.inputs.items():
            made[name] = getattr(self, name)(made[source])
        return torch.cat([made[name] for name in self.outputs], 1)


def block_a(c, pooled):
    units = {
        "branch1x1": ("x", c, 64, 1),
        "branch5x5_1": ("x", c, 48, 1),
        "branch5x5_2": ("branch5x5_1", 48, 64, 5, 1, 2),
        "branch3x3dbl_1": ("x", c, 64, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 64, 96, 3, 1, 1),
        "branch3x3dbl_3": ("branch3x3dbl_2", 96, 96, 3, 1, 1),
        "branch_pool": ("pool", c, pooled, 1),
    }
    return Branches(units, ["branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool"], average)


def block_b(c):
    units = {
        "branch3x3": ("x", c, 384, 3, 2),
        "branch3x3dbl_1": ("x", c, 64, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 64, 96, 3, 1, 1),
        "branch3x3dbl_3": ("branch3x3dbl_2", 96, 96, 3, 2),
    }
    return Branches(units, ["branch3x3", "branch3x3dbl_3", "pool"], halve)


def block_c(c, width):
    wide, high = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    units = {
        "branch1x1": ("x", c, 192, 1),
        "branch7x7_1": ("x", c, width, 1),
        "branch7x7_2": ("branch7x7_1", width, width, *wide),
        "branch7x7_3": ("branch7x7_2", width, 192, *high),
        "branch7x7dbl_1": ("x", c, width, 1),
        "branch7x7dbl_2": ("branch7x7dbl_1", width, width, *high),
        "branch7x7dbl_3": ("branch7x7dbl_2", width, width, *wide),
        "branch7x7dbl_4": ("branch7x7dbl_3", width, width, *high),
        "branch7x7dbl_5": ("branch7x7dbl_4", width, 192, *wide),
        "branch_pool": ("pool", c, 192, 1),
    }
    return Branches(units, ["branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool"], average)


def block_d(c):
    units = {
        "branch3x3_1": ("x", c, 192, 1),
        "branch3x3_2": ("branch3x3_1", 192, 320, 3, 2),
        "branch7x7x3_1": ("x", c, 192, 1),
        "branch7x7x3_2": ("branch7x7x3_1", 192, 192, (1, 7), 1, (0, 3)),
        "branch7x7x3_3": ("branch7x7x3_2", 192, 192, (7, 1), 1, (3, 0)),
        "branch7x7x3_4": ("branch7x7x3_3", 192, 192, 3, 2),
    }
    return Branches(units, ["branch3x3_2", "branch7x7x3_4", "pool"], halve)


def block_e(c, pool):
    wide, high = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    units = {
        "branch1x1": ("x", c, 320, 1),
        "branch3x3_1": ("x", c, 384, 1),
        "branch3x3_2a": ("branch3x3_1", 384, 384, *wide),
        "branch3x3_2b": ("branch3x3_1", 384, 384, *high),
        "branch3x3dbl_1": ("x", c, 448, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 448, 384, 3, 1, 1),
        "branch3x3dbl_3a": ("branch3x3dbl_2", 384, 384, *wide),
        "branch3x3dbl_3b": ("branch3x3dbl_2", 384, 384, *high),
        "branch_pool": ("pool", c, 192, 1),
    }
    outputs = ["branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b"]
    return Branches(units, [*outputs, "branch_pool"], pool)


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = block_a(192, 32), block_a(256, 64)
        self.Mixed_5d, self.Mixed_6a = block_a(288, 64), block_b(288)
        self.Mixed_6b, self.Mixed_6c = block_c(768, 128), block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_c(768, 160), block_c(768, 192)
        self.Mixed_7a, self.Mixed_7b = block_d(768), block_e(1280, average)
        self.Mixed_7c = block_e(2048, lambda x: F.max_pool2d(x, 3, stride=1, padding=1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images):
        """`[B, 3, H, W]` in [0, 1] to `[B, 2048]`."""
        x = F.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x - 1))
        x = halve(self.Conv2d_2b_3x3(x))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def random_reference():
    """The network with random weights that preserve the scale of the input."""
    generator = torch.Generator().manual_seed(0)
    network = Reference().eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.7, 1.4, generator=generator)
        elif name.endswith(("running_mean", "bn.bias")):
            value.normal_(0, 0.1, generator=generator)
    return network
