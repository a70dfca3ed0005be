"""Learn eight Gaussians on a ring with both energies, and compare long chains with the truth.

    python -m experiments.toy --config=configs/toy.py --workdir=runs/toy

The data energy is that of the run in the folder, which is trained first if necessary. The latent
energy is fitted to the same points, scaled to unit variance, as the latents of a stand-alone prior.
Then each energy's own kernel runs for thousands of steps from two starts: the usual one, and a
single mode. Both see the same noise, so chains that have forgotten their start end at the same
point; `coalesced` is the share that does. Writes `toy.json` and `toy.png`.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict, config_flags
from tabulate import tabulate

from experiments import command_line
from mmebm_jax import data
from mmebm_jax import training as train
from mmebm_jax.data.sets.ring import centres
from mmebm_jax.data.source import DataSplits
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method import langevin, prior
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.losses import contrast_loss
from mmebm_jax.networks.joint import LatentEnergy
from mmebm_jax.runs import builders
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.places import place
from mmebm_jax.training import plotting
from mmebm_jax.typing import EnergyFn, Params

_NUM_CHAINS = flags.DEFINE_integer("num_chains", 2000, "Long chains of each start.", 1)
_CHAIN_STEPS = flags.DEFINE_integer("chain_steps", 10_000, "Steps of the long chains.", 1)

SEGMENT = 1000  # steps of a long chain that are compiled together
LIMIT = 1.05  # half the side of the plotted square, in units of the data
CELLS = 210  # along each side of the square
USUAL, ONE_MODE = "usual start", "one mode"
NAMES = {"latent": "latent EBM", "data": "data EBM"}

Points = np.ndarray  # shape=[N, 2], in units of the data
Advance = Callable[[jax.Array, Points, int], Points]
"""(key, points, number of steps) → points."""


class Truth(NamedTuple):
    """The mixture that generated the data: equal weights, isotropic modes."""

    centres: np.ndarray  # shape=[K, 2]
    sigma: float

    def log_density(self, points: Points) -> np.ndarray:
        """Log-density in nats at points `[N, 2]`, shape `[N]`."""
        squares = np.square(points[:, None] - self.centres).sum(axis=-1)
        each = -0.5 * squares / self.sigma**2 - np.log(2 * np.pi * self.sigma**2)
        return np.logaddexp.reduce(each, axis=1) - np.log(len(self.centres))

    def measure(self, points: Points) -> dict[str, Any]:
        """The share of points `[N, 2]` within 3 sigma of a mode, and the share of each mode.

        A point belongs to its nearest mode. For the truth itself, 98.9 % are within 3 sigma.
        """
        distance = np.linalg.norm(points[:, None] - self.centres, axis=-1)
        nearest = np.bincount(distance.argmin(axis=1), minlength=len(self.centres))
        return {
            "within_three_sigma": float(np.mean(distance.min(axis=1) < 3 * self.sigma)),
            "mass": (nearest / len(points)).tolist(),
        }

    def divergence(self, points: Points, energy: np.ndarray) -> float:
        """KL(truth ‖ exp(−energy) / Z) in nats, by quadrature over the points of a grid."""
        log_truth = self.log_density(points)
        log_truth = log_truth - np.logaddexp.reduce(log_truth)
        log_model = -energy - np.logaddexp.reduce(-energy)
        return float(np.sum(np.exp(log_truth) * (log_truth - log_model)))


class Learned(NamedTuple):
    """A learned energy, and where its long chains ended."""

    ends: dict[str, Points]  # by start
    energy: np.ndarray  # shape=[CELLS²], over `grid`
    chain: Chain  # as trained; the long chain has more steps


def grid() -> Points:
    """Centres of the square's cells, `[CELLS², 2]`, x varying slowest."""
    side = LIMIT * ((2 * np.arange(CELLS) + 1) / CELLS - 1)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


def long_chains(
    key: jax.Array, starts: Mapping[str, Points], advance: Advance, num_steps: int
) -> dict[str, Points]:
    """Final positions of chains from each of the starts; all starts see the same noise."""
    ends = {}
    for name, points in starts.items():
        for done in range(0, num_steps, SEGMENT):
            segment_key = jax.random.fold_in(key, done)
            points = advance(segment_key, points, min(SEGMENT, num_steps - done))
        ends[name] = points
    return ends


@partial(
    jax.jit,
    static_argnames=("network", "chain", "num_candidates", "batch_size", "num_steps", "penalty"),
)
def fit_latent(
    key: jax.Array,
    network: LatentEnergy,
    latents: jax.Array,
    learning_rate: float,
    *,
    chain: Chain,
    num_candidates: int,
    batch_size: int,
    num_steps: int,
    penalty: float,
) -> Params:
    """Maximum-likelihood fit of exp(−E_γ(z)) N(z; 0, I), with samples from its own short chains.

    Args:
      key: PRNG key.
      network: E_γ.
      latents: data, `[N, Z]`.
      learning_rate: Adam's initial learning rate; it decays to zero along a cosine.
      chain: chain of the prior's revision.
      num_candidates: draws from N(0, I) for each start of a chain.
      batch_size: number of latents, and of samples, per step.
      num_steps: number of Adam steps.
      penalty: weight of the squared energies.
    """
    init_key, run_key = jax.random.split(key)
    params = network.init(init_key, latents[:1])["params"]
    base = standard(1, latents.shape[-1])
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps), b1=0.5)

    def step(
        carry: tuple[Params, optax.OptState], step_key: jax.Array
    ) -> tuple[tuple[Params, optax.OptState], None]:
        params, state = carry
        data_key, chain_key = jax.random.split(step_key)
        chosen = jax.random.randint(data_key, (batch_size,), 0, len(latents))
        samples = prior.sample(
            chain_key, base, energy_of(network, params), batch_size, chain, num_candidates
        ).position

        def loss(params: Params) -> jax.Array:
            energy = energy_of(network, params)
            return contrast_loss(energy(latents[chosen]), energy(samples), penalty).mean()

        changes, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, changes), state), None

    keys = jax.random.split(run_key, num_steps)
    return jax.lax.scan(step, (params, optimiser.init(params)), keys)[0][0]


def energy_of(network: LatentEnergy, params: Params) -> EnergyFn:
    """E_γ with fixed parameters."""
    return lambda latents: network.apply({"params": params}, latents)  # type: ignore[return-value]


def learn_latent(
    key: jax.Array, config: ConfigDict, truth: Truth, points: Points, num_chains: int, steps: int
) -> Learned:
    """Fit a latent energy to points with the settings of `config.prior`, and run long chains."""
    fit_key, start_key, mode_key, chain_key = jax.random.split(key, 4)
    settings, scale = config.prior, float(points.std())
    chain = builders.build_chain(settings.chain)
    network = LatentEnergy(config.model.prior_hidden, config.model.prior_bound)
    params = fit_latent(
        fit_key,
        network,
        jnp.asarray(points / scale),
        settings.fit_learning_rate,
        chain=chain,
        num_candidates=settings.num_candidates,
        batch_size=config.batch_size,
        num_steps=settings.fit_steps,
        penalty=settings.penalty,
    )
    base = standard(1, points.shape[1])
    energy_fn = prior.tilted_energy(base, energy_of(network, params))

    @partial(jax.jit, static_argnames="count")
    def run(key: jax.Array, latents: jax.Array, count: int) -> jax.Array:
        return langevin.run(key, latents, energy_fn, chain._replace(num_steps=count)).position

    starts = {
        USUAL: scale * np.asarray(prior.base_sample(start_key, base, num_chains)),
        ONE_MODE: in_one_mode(mode_key, truth, num_chains),
    }
    ends = long_chains(
        chain_key,
        starts,
        lambda key, points, count: scale * np.asarray(run(key, points / scale, count)),
        steps,
    )
    return Learned(ends, np.asarray(energy_fn(jnp.asarray(grid() / scale, jnp.float32))), chain)


def learn_data(
    key: jax.Array, run: train.Run, truth: Truth, num_chains: int, steps: int
) -> Learned:
    """Train the run's model, or load it, and run long chains under its data energy."""
    start_key, mode_key, chain_key = jax.random.split(key, 3)
    train.train(run)
    sampler, _ = train.restore_sampler(run)

    def advance(key: jax.Array, points: Points, count: int) -> Points:
        return to_points(sampler.refine(key, to_batch(points), num_steps=count).position)

    starts = {
        USUAL: to_points(sampler.sample(start_key, num_chains, num_steps=0)),
        ONE_MODE: in_one_mode(mode_key, truth, num_chains),
    }
    ends = long_chains(chain_key, starts, advance, steps)
    energy = np.asarray(sampler.energy(to_batch(grid())))
    return Learned(ends, energy, sampler.settings.chains.data)


def in_one_mode(key: jax.Array, truth: Truth, num_samples: int) -> Points:
    """Draws from the first mode only."""
    noise = np.asarray(jax.random.normal(key, (num_samples, 2)))
    return (truth.centres[0] + truth.sigma * noise).astype(np.float32)


def to_points(batch: Mapping[str, Any]) -> Points:
    """The modalities x and y, `[N, 1]` each, joined into points."""
    return np.concatenate([np.asarray(batch[name]) for name in ("x", "y")], axis=1)


def to_batch(points: Points) -> dict[str, np.ndarray]:
    """The inverse of `to_points`."""
    return {"x": points[:, :1], "y": points[:, 1:]}


def report(truth: Truth, splits: DataSplits, learned: Mapping[str, Learned], steps: int) -> Any:
    """The contents of `toy.json`."""
    result: dict[str, Any] = {"truth": truth.measure(to_points(data.whole(splits.test)))}
    for name, model in learned.items():
        distance = np.linalg.norm(model.ends[USUAL] - model.ends[ONE_MODE], axis=1)
        result[name] = {
            "chain": {
                "num_chains": len(distance),
                "num_steps": steps,
                "step_size": model.chain.step_size,
                "temperature": model.chain.temperature,
            },
            **{start: truth.measure(points) for start, points in model.ends.items()},
            "coalesced": float(np.mean(distance < 0.1 * truth.sigma)),
            "divergence": truth.divergence(grid(), model.energy / model.chain.temperature),
        }
    return result


def table(result: Mapping[str, Any]) -> str:
    """The numbers as text."""

    def row(name: str, measured: Mapping[str, Any], *rest: float) -> list[str]:
        mass = measured["mass"]
        shares = (measured["within_three_sigma"], min(mass), max(mass), *rest)
        return [name, *(f"{share:.3f}" for share in shares)]

    rows = [row("test data", result["truth"])]
    for key, name in NAMES.items():
        entry = result[key]
        rows.append(row(f"{name}, {USUAL}", entry[USUAL], entry["coalesced"], entry["divergence"]))
        rows.append(row(f"{name}, {ONE_MODE}", entry[ONE_MODE]))
    columns = ["samples", "within 3 sigma", "least mass", "most mass", "coalesced", "KL, nats"]
    return tabulate(rows, columns, disable_numparse=True)


def draw(path: epath.Path, points: Points, learned: Mapping[str, Learned], truth: Truth) -> None:
    """Plot samples above, energies below: the truth, the latent EBM, the data EBM."""
    figure = Figure(figsize=(9, 6.2), dpi=120, layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    shown = {"truth": points} | {NAMES[k]: m.ends[ONE_MODE] for k, m in learned.items()}
    energies = {"truth": -truth.log_density(grid())}
    energies |= {NAMES[k]: m.energy / m.chain.temperature for k, m in learned.items()}
    for column, (name, values) in enumerate(shown.items()):
        axes[0, column].scatter(*values.T, s=2, linewidths=0, alpha=0.5)
        axes[0, column].set_title(f"{name}, samples", fontsize=10)
        # Nothing is ever sampled above 12 nats, so no colours are spent on that range.
        above = np.minimum(energies[name] - energies[name].min(), 12)
        picture = axes[1, column].imshow(
            above.reshape(CELLS, CELLS).T,
            origin="lower",
            extent=(-LIMIT, LIMIT, -LIMIT, LIMIT),
            cmap="viridis_r",
        )
        axes[1, column].set_title(f"{name}, energy above its least", fontsize=10)
    for axis in axes.flat:
        axis.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
    figure.colorbar(picture, ax=axes[1], label="nats, 12 and more in one colour")
    plotting.write_figure(path / "toy.png", figure)


def toy(config: ConfigDict, workdir: epath.Path, num_chains: int, steps: int) -> dict[str, Any]:
    """Learn both energies, measure and plot; returns the contents of `toy.json`.

    Raises:
      ValueError: the configuration is not for the ring data with a data energy.
    """
    if config.data.name != "ring" or not config.energy.learn:
        raise ValueError("toy needs config.data.name ring and config.energy.learn True.")
    run = train.prepare(config, workdir)
    truth = Truth(centres(config.data.radius), config.data.sigma)
    latent_key, data_key = jax.random.split(jax.random.key(config.seed))
    points = to_points(data.whole(run.splits.train))
    learned = {
        "latent": learn_latent(latent_key, config, truth, points, num_chains, steps),
        "data": learn_data(data_key, run, truth, num_chains, steps),
    }
    result = report(truth, run.splits, learned, steps)
    write_whole(workdir / "toy.json", json.dumps(result, indent=2) + "\n")
    draw(workdir, points[:num_chains], learned, truth)
    return result


def main() -> None:
    """Run the command."""
    if flags.FLAGS.config is None:
        command_line.fail("--config is missing: for example --config=configs/toy.py.")
    if command_line.WORKDIR.value is None:
        command_line.fail("--workdir is missing: name the folder of the run.")
    workdir = place(command_line.WORKDIR.value)
    print(table(toy(flags.FLAGS.config, workdir, _NUM_CHAINS.value, _CHAIN_STEPS.value)))


if __name__ == "__main__":
    # Defined here, since a process that imports this module may have its own --config.
    config_flags.DEFINE_config_file("config", None, "Configuration file of the run.")
    command_line.run(main)
