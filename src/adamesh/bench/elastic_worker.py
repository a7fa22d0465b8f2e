"""A worker of ``adamesh bench elastic``: trains until it is told to end, or is killed."""

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn

import adamesh
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from adamesh.data.ledger import Tally, tally
from adamesh.errors import Expelled, QuorumLost
from adamesh.membership.settings import Patience

__all__ = ["NUM_SAMPLES", "Course", "Hold", "Made", "build", "codecs", "live", "loss", "samples"]

_WIDTH_IN, _WIDTH, _WIDTH_OUT = 64, 980, 8
NUM_SAMPLES = 4096
_EPOCHS = 1 << 20


@dataclass(frozen=True)
class Course:
    """What is trained, and how."""

    dtype: str
    """"float64" or "float32"."""
    up: str
    """How gradients travel: "exact" or "int4", with feedback."""
    redundancy: int
    batch_size: int
    seed: int
    token: str


@dataclass(frozen=True)
class Made:
    """A worker has made a step."""

    at_s: float
    """By the clock that all processes of a machine share."""
    step: int
    epoch: int
    workers: int
    """That made it."""
    used: Tally
    """Samples that all of them together used."""
    addresses: Sequence[tuple[str, int]]
    """At which newcomers may ask."""


@dataclass(frozen=True)
class Hold:
    """The word to a worker to hold the interpreter's lock, so that no other thread of it runs Python."""

    seconds: float


def build(course: Course) -> nn.Module:
    """The model, of about a million parameters, the same each time."""
    torch.manual_seed(course.seed)
    layers = (
        nn.Linear(_WIDTH_IN, _WIDTH),
        nn.Tanh(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.Tanh(),
        nn.Linear(_WIDTH, _WIDTH_OUT),
    )
    return nn.Sequential(*layers).to(getattr(torch, course.dtype))


def samples(course: Course) -> tuple[Tensor, Tensor]:
    """Inputs (samples, 64) and targets (samples, 8) of a function with noise."""
    generator = torch.Generator().manual_seed(course.seed)
    x = torch.randn(NUM_SAMPLES, _WIDTH_IN, generator=generator, dtype=torch.float64)
    mix = torch.randn(_WIDTH_IN, _WIDTH_OUT, generator=generator, dtype=torch.float64) / 8
    y = torch.sin(x @ mix) + 0.1 * torch.randn(NUM_SAMPLES, _WIDTH_OUT, generator=generator, dtype=torch.float64)
    dtype = getattr(torch, course.dtype)
    return x.to(dtype), y.to(dtype)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error."""
    error: Tensor = (model(x) - y).square().mean()
    return error


def codecs(course: Course) -> adamesh.Wire:
    """How gradients travel."""
    return adamesh.Wire(up=adamesh.Feedback(adamesh.Int4())) if course.up == "int4" else adamesh.Wire()


def live(connection: Connection, course: Course, founder: tuple[int, int, int] | None) -> None:
    """The life of one worker.

    Args:
        connection: to whoever started it.
        course: what is trained.
        founder: rank, number of founders and the port where they meet; None: a standby, which waits until it is told
            whom to join.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    model, (x, y) = build(course), samples(course)
    terms = Terms("127.0.0.1", course.token, patience=Patience())
    if founder is None:
        _warm_up(course, x, y)
        connection.send("ready")
        company = Workers.join(connection.recv(), terms)
    else:
        rank, size, port = founder
        company = Workers.found(("127.0.0.1", port), rank, size, terms)
    plan = adamesh.Plan(mesh=company, redundancy=course.redundancy, wire=codecs(course))
    optimizer = adamesh.AdamW(list(model.named_parameters()), lr=1e-3, plan=plan)
    try:
        _train(connection, company, model, optimizer, (x, y), course)
    except (Expelled, QuorumLost) as error:
        connection.send(type(error).__name__)
    else:
        state = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
        connection.send(("end", optimizer.steps_made, state))
        connection.recv()  # all others have come to the end too


def _warm_up(course: Course, x: Tensor, y: Tensor) -> None:
    model = build(course)
    loss(model, x[:2], y[:2]).backward()
    torch.optim.AdamW(model.parameters()).step()


def _train(
    connection: Connection,
    company: Workers,
    model: nn.Module,
    optimizer: adamesh.AdamW,
    data: tuple[Tensor, Tensor],
    course: Course,
) -> None:
    x, y = data
    sampler = adamesh.ElasticSampler(len(x), course.batch_size, optimizer, seed=course.seed, epochs=_EPOCHS)
    last = 1 << 62
    for indices in sampler:
        step = optimizer.steps_made
        if len(indices):
            (loss(model, x[indices], y[indices]) * sampler.weight).backward()
        used = tally(step, indices)
        optimizer.attach(b"".join(int(limb).to_bytes(8, "little") for limb in used.limbs()))
        optimizer.step()
        optimizer.zero_grad()
        if optimizer.steps_made > step:
            notes = [[int.from_bytes(note[i : i + 8], "little") for i in (0, 8, 16)] for note in optimizer.notes]
            total = Tally.of_limbs(map(sum, zip(*notes, strict=True)))
            addresses = [(member.host, member.port) for member in company.members]
            made = Made(time.monotonic(), optimizer.steps_made, company.formation.epoch, len(notes), total, addresses)
            connection.send(made)
        if connection.poll():
            match connection.recv():
                case Hold(seconds=seconds):
                    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # which, called so, does not let go of it
                case int(step):
                    last = step
        if optimizer.steps_made >= last:
            return
