"""Every field of a configuration: its type, range, default and meaning, in one place.

The defaults are the full run on PolyDigits (configs/polydigits.py); a config states what differs.
Fields have an upper limit where a typing error would allocate absurd amounts of memory or overflow
32-bit numbers; the limits are far above what any method needs. `experiments/configuration.py` makes
`docs/configuration.md` from this file.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import ml_collections
import pydantic
from pydantic import Field, model_validator

from mmebm_jax import data
from mmebm_jax.distributions.aggregators import AGGREGATORS
from mmebm_jax.distributions.families import FAMILIES
from mmebm_jax.method.bounds import ESTIMATORS, OBJECTIVES
from mmebm_jax.method.model import ARITHMETIC
from mmebm_jax.modalities.kinds import KINDS, NETWORKS, likelihoods_of
from mmebm_jax.storage import validation
from mmebm_jax.storage.validation import OneOf, Record

DEVICES = ("any", "accelerator")
DEFAULT_DATA = "polydigits"
DATA_STARTS = ("generator", "noise")
TOKENS = ("relaxed", "held", "given")
TRACKERS = ("none", "wandb", "mlflow")
# Bounds that are derived only for some aggregators.
AGGREGATOR_OF = {
    "mvae": ("product_with_prior",),
    "mvtcae": ("product",),
    "jmvae": ("joint_expert",),
    "code": ("consensus",),
}
MOST_STEPS = 10**9
MOST_TIME = 1e6  # of the data chain that refines samples
MOST_CHAIN_STEPS = 10**6
MOST_CANDIDATES = 2**24  # of one step
LARGEST_SIZE = 2**16
UNCLIPPED = 1e9  # as a bound on a gradient: no bound
NEVER = 10**7  # as a step of the schedule: never

Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Every = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
SizeOrNone = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Bound = Annotated[float, Field(ge=0, le=1e30)]
Path = Annotated[str, Field(max_length=4096, pattern=validation.PRINTABLE)]


class Section(Record):
    """A section of a configuration; all of its fields must be given."""

    needs_all: ClassVar[bool] = True


class Input(Section):
    """How batches reach the devices."""

    device_resident: bool = Field(
        False,
        description="Keep the training set on the devices; otherwise the host prefetches batches.",
    )


def _likelihood(kind: str, scale: float) -> type[Section]:
    """The likelihood p(x_m | u) of a kind of modality."""
    names = likelihoods_of(kind)
    return pydantic.create_model(
        f"{kind}_likelihood",
        __base__=Section,
        name=(
            Annotated[str, OneOf(names)],
            Field(names[0], description="Family of the likelihood."),
        ),
        scale=(
            Scale,
            Field(scale, description="σ (Gaussian) or b (Laplace), for data in [-1, 1]."),
        ),
        weight=(
            Scale,
            Field(1.0, description="Factor on the log-likelihood, to balance the modalities."),
        ),
    )


_SCALES = {"text": 1.0, "category": 1.0}
_LIKELIHOODS = {kind: _likelihood(kind, _SCALES.get(kind, 0.5)) for kind in KINDS}
Likelihoods = pydantic.create_model(
    "Likelihoods",
    __base__=Section,
    **{kind: (section, section()) for kind, section in _LIKELIHOODS.items()},  # type: ignore[call-overload]
)


class Model(Section):
    """Sizes and families of the four networks."""

    num_latents: SizeOrNone = Field(
        24, description="Dimensions of the shared latent z; 0: a separate generator per modality."
    )
    num_private: SizeOrNone = Field(
        0, description="Dimensions of each modality's private latent w_m."
    )
    posterior: Annotated[str, OneOf(FAMILIES)] = Field(
        "gaussian", description="Family of the experts q_m."
    )
    aggregator: Annotated[str, OneOf(AGGREGATORS)] = Field(
        "mixture", description="How the experts are combined into q(z | x)."
    )
    correlation: ShareBelowOne = Field(
        0.0, description="Correlation ρ of experts; `consensus` alone."
    )
    networks: Annotated[str, OneOf(NETWORKS)] = Field(
        "small",
        description="Architecture: `small`, one or two convolutions; `resnet`, residual networks "
        "for images and text; `transformer`, a transformer for text and residual networks for "
        "images. Vectors always use perceptrons.",
    )
    width: Size = Field(16, description="Channels of the experts' and the generator's first layer.")
    hidden: Size = Field(
        128,
        description="Units of their dense layers; channels of `resnet` and `transformer` for text.",
    )
    prior_hidden: Size = Field(256, description="Units of the latent energy's layers.")
    prior_bound: float = Field(
        10.0, gt=0, le=1e6, description="Bound c on the latent energy: c tanh(f / c)."
    )
    energy_width: Size = Field(16, description="Channels of the data energy's first layer.")
    energy_hidden: Size = Field(128, description="Units of the data energy's dense layers.")
    spectral_gain: float = Field(
        2.5, ge=0, le=1e3, description="Spectral norm of the data energy's layers; 0: unbounded."
    )
    arithmetic: Annotated[str, OneOf(ARITHMETIC)] = Field(
        "float32", description="Data type of computations inside the networks."
    )
    rematerialise: bool = Field(
        False, description="Whether activations are recomputed instead of stored."
    )


class Elbo(Section):
    """The variational bound: a baseline, a warm start, or a term added to the revision losses."""

    objective: Annotated[str, OneOf(OBJECTIVES)] = Field("mmvae", description="Name of the bound.")
    warmup_weight: Weight = Field(1.0, description="Weight of the bound before `warmup_steps`.")
    weight: Weight = Field(1.0, description="Weight of the bound afterwards.")
    beta: Weight = Field(1.0, description="Weight β of the bound's KL divergence.")
    num_samples: int = Field(
        1, ge=1, le=1000, description="Samples K from each expert; `mmvae` only."
    )
    estimator: Annotated[str, OneOf(ESTIMATORS)] = Field(
        "elbo",
        description="Estimator of the bound from these samples; `stratum` uses the samples of one "
        "random expert. `mmvae` only.",
    )
    total_correlation: Share = Field(0.5, description="α of `mvtcae`.")
    expert_weight: Weight = Field(
        0.1, description="Weight α of the divergences from each expert in `jmvae`."
    )
    entropy_weight: Weight = Field(
        0.0, description="Weight of the entropy of the learned subset weights in `code`."
    )
    shared_factor: Weight = Field(
        1.0, description="Factor on β for z when there are private latents; `mmvae` only."
    )
    hidden_share: Share = Field(
        1.0,
        description="Share of the private latents of modalities other than the source that are "
        "hidden, that is, drawn from r_n; 1 is MMVAE+. `mmvae` only, without `dreg`.",
    )
    hide_tokens: bool = Field(
        False,
        description="Whether the hidden share of text and categories is 1, so that their content "
        "must come through z; `mmvae` only.",
    )
    learned_prior: bool = Field(
        False, description="Whether the bound uses the learned prior once there is one."
    )


class Chain(Section):
    """A Langevin chain v ← v − (s²/2) ∇U(v) + s √T ε."""

    num_steps: int = Field(10, ge=0, le=MOST_CHAIN_STEPS, description="Number of steps.")
    step_size: float = Field(0.1, ge=0, le=1e3, description="Step size s.")
    temperature: float = Field(1.0, ge=0, le=1e6, description="Temperature T.")
    gradient_clip: float = Field(
        0.0, ge=0, le=1e9, description="Bound on the norm of each example's ∇U; 0: none."
    )


class Posterior(Section):
    """Revision of the latents that the inference model draws for the data."""

    generator_weight: Weight = Field(
        2.0, description="Weight of the generator's loss −log p(x | ũ)."
    )
    inference_weight: Weight = Field(
        0.03, description="Weight of the inference model's loss −log q(ũ | x)."
    )
    independent_inference: bool = Field(
        False, description="Whether ũ trains each expert separately instead of the aggregate."
    )
    scaled: bool = Field(
        False, description="Whether the chain's steps are in units of the inferred scales."
    )
    conditional_steps: int = Field(
        0,
        ge=0,
        le=MOST_CHAIN_STEPS,
        description="Steps of the chain in `sample(given=…)`; 0: latents come from the inference "
        "model alone.",
    )
    private_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(w_m | z) in `sample(given=…)`, in addition "
        "to `prior.private_temperature`.",
    )
    chain: Chain = Chain()


class Prior(Section):
    """The prior p(z) ∝ exp(−E_γ(z)) p_0(z)."""

    family: Annotated[str, OneOf(FAMILIES)] = Field(
        "gaussian", description="Family of the standard p_0 (location 0, scale 1) and of p(w_m)."
    )
    fit_mixture: bool = Field(
        True, description="Whether p_0 becomes a Gaussian mixture fitted to revised latents."
    )
    learn_clusters: bool = Field(
        False,
        description="Whether the bound learns p_0 as a mixture of `num_components` unit Gaussians "
        "with learned weights and means (CMVAE).",
    )
    num_components: Size = Field(60, description="Components of that mixture.")
    num_private_components: int = Field(
        0,
        ge=0,
        le=1000,
        description="Components of p_0(w_m | z) for each of these components, also fitted; 0 "
        "leaves p(w_m) standard.",
    )
    shared_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(z) when latents are drawn from it: below 1, "
        "samples are less diverse and more coherent. It affects neither inferred latents nor "
        "likelihoods.",
    )
    private_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(w_m | z) after all fits: below 1, samples "
        "are less diverse and more coherent.",
    )
    token_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="A further factor of this kind when private latents of text and categories are "
        "drawn, in training too: a word is right or wrong, whereas a picture may be nearly right. "
        "It affects neither latents of given modalities, nor likelihoods, nor standard private "
        "priors.",
    )
    num_fit_examples: int = Field(
        15_000, ge=2, le=10**7, description="Training examples that the mixture is fitted to."
    )
    fit_step: Step = Field(
        4000, description="Step of the mixture's first fit; it is fitted again at the end."
    )
    learn: bool = Field(True, description="Whether the latent energy E_γ is trained.")
    start_step: Step = Field(4000, description="Step from which the latent energy is trained.")
    fit_steps: int = Field(
        300,
        ge=0,
        le=MOST_CHAIN_STEPS,
        description="Updates of the latent energy after the mixture's last fit.",
    )
    fit_learning_rate: Rate = Field(2e-3, description="Learning rate of these updates.")
    fit_weight_decay: Weight = Field(
        0.0, description="Weight decay of these updates, multiplied by the learning rate."
    )
    num_candidates: Size = Field(
        64, description="Draws of p_0 per chain; it starts at one, chosen with weights ∝ exp(−E_γ)."
    )
    penalty: Weight = Field(0.005, description="Weight of E_γ(ũ)² + E_γ(u_p)².")
    chain: Chain = Chain(num_steps=20, step_size=0.07)

    @model_validator(mode="after")
    def _enough_examples(self) -> "Prior":
        if self.num_fit_examples < 2 * self.num_components:
            raise ValueError(
                f"num_fit_examples is {self.num_fit_examples}: it must be at least twice "
                f"config.prior.num_components, {self.num_components}."
            )
        return self


class Energy(Section):
    """The energy E_α(x) over all modalities, its chain, and what is learned from its samples."""

    learn: bool = Field(True, description="Whether the data energy E_α is trained.")
    start_step: Step = Field(4200, description="Step from which the data energy is trained.")
    start: Annotated[str, OneOf(DATA_STARTS)] = Field(
        "generator", description="Where its chains start: the generator's samples, or noise."
    )
    penalty: Weight = Field(
        0.15, description="Weight of E_α(x)² + E_α(x̃)²; the energy gap stays near its inverse."
    )
    data_noise: Share = Field(0.01, description="σ of the noise on the data that the energy sees.")
    noisy_samples: bool = Field(
        False,
        description="Whether refined samples get this noise too: the energy then learns no detail "
        "finer than the noise.",
    )
    synthesis_generator: Weight = Field(
        0.1, description="Weight λ_s of the generator's loss −log p(x̃ | u_p)."
    )
    synthesis_inference: Weight = Field(
        0.03, description="Weight λ_i of the inference model's loss −log q(u_p | x̃)."
    )
    chain: Chain = Chain(num_steps=10, step_size=0.7, temperature=5e-5)
    gap_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the energy gap between samples and data that the chain closes in "
        "training, with step sizes computed from the batch; 0: steps of `chain.step_size`.",
    )
    tokens: Annotated[str, OneOf(TOKENS)] = Field(
        "relaxed",
        description="What the data chain does with words and categories: `relaxed` moves their "
        "probabilities; `held` keeps them at their likeliest values; `given` does so too, and the "
        "energy learns from samples completed from the data's own words and categories.",
    )
    sampling_time: float = Field(
        0.0,
        ge=0,
        le=MOST_TIME,
        description="Time for which samples are refined, where a step of size s takes s²/2; 0: the "
        "time of `chain`. It is divided into `chain.num_steps` equal steps, whose size replaces "
        "`chain.step_size` for samples.",
    )
    fit_sampling_time: bool = Field(
        False,
        description="Whether this time is fitted after training instead, to bring samples close to "
        "training data in the Fréchet distance of the inference model's means.",
    )
    num_candidates: int = Field(
        1,
        ge=1,
        le=64,
        description="Samples generated and refined for each one that `sample` returns.",
    )
    candidate_temperature: float = Field(
        4.0,
        gt=0,
        le=1e6,
        description="T in the choice of one candidate with weights ∝ exp(−E_α(x̃) / T).",
    )
    completion_temperature: float = Field(
        4.0, gt=0, le=1e6, description="T of the same choice when some modalities are given."
    )

    @model_validator(mode="after")
    def _noise_has_no_latents(self) -> "Energy":
        if self.start == "noise" and (self.synthesis_generator or self.synthesis_inference):
            raise ValueError(
                "start is 'noise': its samples come from no latent, so set "
                "config.energy.synthesis_generator and synthesis_inference to 0."
            )
        return self

    @model_validator(mode="after")
    def _time_of_a_chain(self) -> "Energy":
        if self.sampling_time and not self.chain.num_steps:
            raise ValueError(
                f"sampling_time is {self.sampling_time:g}, but config.energy.chain.num_steps is 0: "
                "a chain without steps takes no time."
            )
        refined = self.chain.num_steps and self.start == "generator"
        if self.fit_sampling_time and (self.sampling_time or not refined):
            raise ValueError(
                "fit_sampling_time is True: set config.energy.sampling_time to 0, for it is "
                "fitted, config.energy.start to 'generator', and chain.num_steps above 0."
            )
        if self.tokens != "relaxed" and self.start == "noise":
            raise ValueError(
                f"tokens is {self.tokens!r}, and held words of noise would be random: set "
                "config.energy.start to 'generator'."
            )
        if self.gap_share and (self.chain.gradient_clip or not self.chain.step_size):
            raise ValueError(
                f"gap_share is {self.gap_share:g}: its steps follow from whole gradients, and none "
                "is larger than four of the chain's, so set config.energy.chain.gradient_clip to 0 "
                "and chain.step_size above 0."
            )
        if self.gap_share and not (self.fit_sampling_time or self.sampling_time):
            raise ValueError(
                f"gap_share is {self.gap_share:g}, so training's chain has no step size that "
                "samples could take: set config.energy.fit_sampling_time=True."
            )
        return self


class Optimiser(Section):
    """AdamW with gradient clipping."""

    learning_rate: Rate = Field(1e-3, description="Peak learning rate.")
    b1: ShareBelowOne = Field(0.9, description="Decay of the first moment.")
    b2: ShareBelowOne = Field(0.999, description="Decay of the second moment.")
    gradient_clip: float = Field(
        1000.0,
        gt=0,
        le=UNCLIPPED,
        description="Bound on the global norm of the gradient; 1e9: no bound.",
    )
    weight_decay: float = Field(
        0.0, ge=0, le=10, description="AdamW's weight decay, multiplied by the learning rate."
    )


class Optimisers(Section):
    """One optimiser per network."""

    inference: Optimiser = Optimiser()
    generator: Optimiser = Optimiser()
    prior: Optimiser = Optimiser(learning_rate=3e-4, b1=0.5)
    energy: Optimiser = Optimiser(b1=0.0, b2=0.9)


class Schedule(Section):
    """Learning rates over time: a linear warm-up, then a cosine."""

    warmup_steps: Step = Field(50, description="Steps of the warm-up.")
    settle_step: Step = Field(
        0,
        description="Step at which the learning rates of the generator and the inference model "
        "stop decaying; 0: the end of the run.",
    )
    freeze_step: Step = Field(
        0,
        description="Step from which the generator and the inference model are frozen at their "
        "averaged weights: the prior is fitted for the last time, and only the data energy is "
        "trained further; 0: never.",
    )
    final_fraction: Share = Field(0.1, description="Final learning rate divided by its peak.")


class Guard(Section):
    """Guards of a run: against exploding numbers, which send it back, and against slow CPUs."""

    retries: int = Field(
        3, ge=0, le=1000, description="How often explosions may send a run back to a checkpoint."
    )
    halve_energy_rate: bool = Field(
        True, description="Whether each return also halves the energies' learning rates."
    )
    energy_gap: Bound = Field(1e4, description="Bound on the size of the energy gap; 0: none.")
    gradient_norm: Bound = Field(
        0.0, description="Bound on the gradient norm of each network; 0: none."
    )
    device: Annotated[str, OneOf(DEVICES)] = Field(
        "any",
        description="Devices that may train: with `accelerator`, a run that finds only CPUs is "
        "refused and told how long it would take.",
    )


class Evaluation(Section):
    """How `--mode=evaluate` measures."""

    num_samples: int = Field(
        2000, ge=2, le=10**7, description="Samples of the prior, at most as many as test examples."
    )
    num_sources: int = Field(
        2000,
        ge=2,
        le=10**7,
        description="Test examples that are reconstructed and completed from each of their "
        "modalities; at most `num_samples`.",
    )
    classifier_steps: int = Field(
        600, ge=1, le=MOST_CHAIN_STEPS, description="Training steps of each classifier."
    )
    classifier_seeds: int = Field(
        3,
        ge=1,
        le=100,
        description="Classifiers per modality: the first one judges, all together give the spread.",
    )
    measures: Path = Field(
        "all",
        min_length=1,
        description="What to measure: `all`, for everything that the run allows, or names, "
        "separated by commas, such as `joint_samples,log_likelihood`; an unknown name lists them.",
    )
    inception_weights: Path = Field(
        "",
        description="For FID: pytorch-fid's weights file, or a folder to download it to. "
        "Empty: no FID.",
    )
    mobilenet_weights: Path = Field(
        "",
        description="For FD-MobileNet (not FID): an `.npz` of MobileNetV1 1.0. Empty: none.",
    )
    polymnist_classifiers: Path = Field(
        "",
        description="Folder of PolyMNIST's released classifiers, `pretrained_img_to_digit_clf_m0` "
        "and so on, used as further judges. Empty: none.",
    )
    importance_samples: int = Field(
        200, ge=1, le=10**6, description="Samples K of the importance-weighted bound."
    )
    likelihood_examples: int = Field(
        50, ge=2, le=10**6, description="Examples whose likelihood is estimated."
    )
    calibration_examples: int = Field(
        100, ge=10, le=10**6, description="Simulated examples that test posterior calibration."
    )


class Config(Section):
    """The configuration of a run."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the run.")
    batch_size: Size = Field(64, description="Examples per step, over all devices.")
    num_steps: Every = Field(6000, description="Training steps.")
    warmup_steps: Step = Field(1500, description="Steps in which only the bound is trained.")
    revision_stride: Size = Field(
        4, description="Chains revise every n-th example of a batch; the bound uses all."
    )
    accumulation_steps: Size = Field(
        1, description="Parts into which a batch is split and processed in turn, to save memory."
    )
    input: Input = Input()
    missing_ratio: ShareBelowOne = Field(
        0.0, description="Share of the training data's modalities that is hidden at random."
    )
    data: Record = data.Named(name=DEFAULT_DATA)
    likelihood: Likelihoods = Likelihoods()
    model: Model = Model()
    elbo: Elbo = Elbo()
    posterior: Posterior = Posterior()
    prior: Prior = Prior()
    energy: Energy = Energy()
    optimiser: Optimisers = Optimisers()
    schedule: Schedule = Schedule()
    averaging: ShareBelowOne = Field(
        0.995, description="Decay of the moving average of the weights, from which samples come."
    )
    guard: Guard = Guard()
    tracker: Annotated[str, OneOf(TRACKERS)] = Field(
        "none", description="Where metrics go in addition to metrics.jsonl and TensorBoard."
    )
    log_every: Every = Field(50, description="Steps between rows of metrics.jsonl.")
    picture_every: Every = Field(1000, description="Steps between pictures.")
    checkpoint_every: Every = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        2, ge=1, le=10**6, description="How many of the newest checkpoints are kept."
    )
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _batch_divides(self) -> "Config":
        if self.batch_size % self.revision_stride:
            raise ValueError(
                f"revision_stride is {self.revision_stride}: it must divide "
                f"config.batch_size, {self.batch_size}."
            )
        revised = self.batch_size // self.revision_stride
        if revised % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps is {self.accumulation_steps}: it must divide the "
                f"{revised} examples of a batch that are revised."
            )
        candidates = revised * self.prior.num_candidates
        if candidates > MOST_CANDIDATES:
            raise ValueError(
                f"prior.num_candidates is {self.prior.num_candidates}: with the batch that is "
                f"{candidates} draws, more than {MOST_CANDIDATES}: lower it."
            )
        return self

    @model_validator(mode="after")
    def _something_learns_while_frozen(self) -> "Config":
        step = self.schedule.freeze_step
        if step and not self.energy.learn:
            raise ValueError(
                f"schedule.freeze_step is {step}, but energy.learn is False: nothing would learn "
                "from that step on. Set it to 0, or learn the data energy."
            )
        return self

    @model_validator(mode="after")
    def _bound_is_derived(self) -> "Config":
        """Check that the bound, where it is used, has been derived for these experts."""
        model, elbo = self.model, self.elbo
        if not (elbo.weight or (self.warmup_steps and elbo.warmup_weight)):
            return self
        needed = AGGREGATOR_OF.get(elbo.objective, AGGREGATORS)
        if model.aggregator not in needed:
            raise ValueError(
                f"elbo.objective {elbo.objective!r} needs config.model.aggregator "
                f"{' or '.join(needed)}, not {model.aggregator!r}."
            )
        if model.num_private and (elbo.objective, model.aggregator) != ("mmvae", "mixture"):
            raise ValueError(
                f"model.num_private is {model.num_private}, but the objective "
                f"{elbo.objective!r} with the aggregator {model.aggregator!r} has no private "
                "latents: set it to 0, or use objective mmvae with aggregator mixture (MMVAE+)."
            )
        if elbo.hidden_share < 1 and (elbo.objective != "mmvae" or elbo.estimator == "dreg"):
            raise ValueError(
                f"elbo.hidden_share is {elbo.hidden_share}, but the objective {elbo.objective!r} "
                f"with the estimator {elbo.estimator!r} hides nothing at random: set it to 1, or "
                "use objective mmvae with another estimator than dreg."
            )
        if elbo.hide_tokens and elbo.objective != "mmvae":
            raise ValueError(
                f"elbo.hide_tokens is True, but the objective {elbo.objective!r} hides no private "
                "latents: set it to False, or use objective mmvae."
            )
        if model.aggregator == "holder" and (
            elbo.objective != "mmvae" or elbo.estimator == "stratum"
        ):
            raise ValueError(
                f"elbo.objective {elbo.objective!r} with the estimator {elbo.estimator!r} has no "
                "gradient for the weights that the aggregator holder learns: use objective mmvae "
                "with estimator elbo or iwae."
            )
        if elbo.objective == "mmvae":
            return self
        if "laplace" in (model.posterior, self.prior.family):
            raise ValueError(
                f"elbo.objective {elbo.objective!r} knows Gaussian divergences alone: set "
                "config.model.posterior and config.prior.family to gaussian, or use mmvae."
            )
        if elbo.num_samples > 1 or elbo.estimator != "elbo":
            raise ValueError(
                f"elbo.objective {elbo.objective!r} takes one sample: set "
                "config.elbo.num_samples to 1 and config.elbo.estimator to elbo, or use mmvae."
            )
        return self

    @model_validator(mode="after")
    def _latents_have_a_prior(self) -> "Config":
        model, prior = self.model, self.prior
        if model.posterior == "laplace" and model.aggregator != "mixture":
            raise ValueError(
                f"model.aggregator {model.aggregator!r} combines Gaussian experts alone: set "
                "config.model.posterior to gaussian, or use the aggregator mixture."
            )
        learned = prior.learn or prior.fit_mixture or prior.learn_clusters
        if self.elbo.learned_prior and not learned:
            raise ValueError(
                "elbo.learned_prior is True, but no prior is learned: set config.prior.learn, "
                "config.prior.fit_mixture or config.prior.learn_clusters."
            )
        if prior.learn_clusters and (
            prior.fit_mixture or prior.family != "gaussian" or not self.elbo.learned_prior
        ):
            raise ValueError(
                "prior.learn_clusters is True: the bound learns them, as Gaussians, so set "
                "config.elbo.learned_prior to True, config.prior.fit_mixture to False and "
                "config.prior.family to gaussian."
            )
        if not model.num_latents and (not model.num_private or learned):
            raise ValueError(
                "model.num_latents is 0 (a generator for each modality): set "
                "config.model.num_private, and config.prior.learn and fit_mixture to False."
            )
        return self


@functools.cache
def record(data_name: str = DEFAULT_DATA) -> type[Config]:
    """The class `Config` with the options of a data set as its section `data`.

    Raises:
      ValueError: there is no such data set.
    """
    section = data.section(data_name)
    return pydantic.create_model("Config", __base__=Config, data=(section, section()))


def defaults(data_name: str = DEFAULT_DATA) -> ml_collections.ConfigDict:
    """All fields at their defaults, for a config to change.

    Raises:
      ValueError: there is no such data set.
    """
    return ml_collections.ConfigDict(record(data_name)().model_dump())


def parse(config: Any) -> Config:
    """The validated record of a configuration in which every field is given.

    Args:
      config: fields and sections, as a `ConfigDict` or as read from a JSON file; only options of
        the data may be left out.

    Raises:
      ValueError: one line that names the field, its value and what is allowed.
    """
    return validation.parse(record(_data_name(config)), config)


def differences(config: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Field → (value, default), for the fields of a valid config where the two differ."""
    given, usual = parse(config), record(_data_name(config))()
    return {
        name: (value, default)
        for name, _ in validation.leaves(type(given))
        if (value := at(given, name)) != (default := at(usual, name))
    }


def at(section: Record, name: str) -> Any:
    """The value of a field, given a name such as "prior.chain.num_steps"."""
    return functools.reduce(getattr, name.split("."), section)


def _data_name(config: Any) -> str:
    section = config.get("data") if hasattr(config, "get") else None
    if not isinstance(section, Mapping | ml_collections.ConfigDict):
        return DEFAULT_DATA  # Parsing the whole configuration reports the error.
    named = {"name": section["name"]} if "name" in section else {}
    return validation.parse(data.Named, named, "config.data").name
