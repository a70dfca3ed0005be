"""Every field of a configuration: its type, range, default and meaning, in one place.

The defaults are the full run on PolyDigits (configs/polydigits.py); a config states what differs.
Upper limits stand where a slip of the finger would allocate absurdly or overflow 32-bit numbers;
they are far above what any method of the family needs. `docs/configuration.md` is made of this
file by `experiments/configuration.py`.
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
# Bounds that are derived for some aggregators alone.
AGGREGATOR_OF = {
    "mvae": ("product_with_prior",),
    "mvtcae": ("product",),
    "jmvae": ("joint_expert",),
    "code": ("consensus",),
}
MOST_STEPS = 10**9
MOST_TIME = 1e6  # of the data chain of samples
MOST_CHAIN_STEPS = 10**6
MOST_CANDIDATES = 2**24  # of one step
LARGEST_SIZE = 2**16
UNCLIPPED = 1e9  # the bound on a gradient that stands for none
NEVER = 10**7  # a step by which a configuration says that something never begins

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
    """A part of a configuration; all of its fields must be given."""

    needs_all: ClassVar[bool] = True


class Input(Section):
    """How batches reach the devices."""

    device_resident: bool = Field(
        False,
        description="Whether the training set lies on the devices; else the host reads ahead.",
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
            Field(scale, description="σ (Gaussian) or b (Laplace) in units of the range [-1, 1]."),
        ),
        weight=(
            Scale,
            Field(1.0, description="Factor on the log-likelihood: balances unequal modalities."),
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
        24, description="Dimensions of the shared latent z; 0 is a generator for each modality."
    )
    num_private: SizeOrNone = Field(0, description="Dimensions of each modality's private w_m.")
    posterior: Annotated[str, OneOf(FAMILIES)] = Field(
        "gaussian", description="Family of the experts q_m."
    )
    aggregator: Annotated[str, OneOf(AGGREGATORS)] = Field(
        "mixture", description="How experts combine to q(z | x)."
    )
    correlation: ShareBelowOne = Field(
        0.0, description="Correlation ρ of experts; `consensus` alone."
    )
    networks: Annotated[str, OneOf(NETWORKS)] = Field(
        "small",
        description="Which networks: `small`, of a convolution or two; `resnet`, residual, of "
        "images and of text; `transformer`, of text, beside residual ones of images. Vectors have "
        "perceptrons in all.",
    )
    width: Size = Field(16, description="Channels of the experts' and the generator's first layer.")
    hidden: Size = Field(
        128, description="Units of their dense layers; channels of text's other networks."
    )
    prior_hidden: Size = Field(256, description="Units of the latent energy's layers.")
    prior_bound: float = Field(
        10.0, gt=0, le=1e6, description="Bound c on the latent energy: c tanh(f / c)."
    )
    energy_width: Size = Field(16, description="Channels of the data energy's first layer.")
    energy_hidden: Size = Field(128, description="Units of the data energy's dense layers.")
    spectral_gain: float = Field(
        2.5, ge=0, le=1e3, description="Spectral norm of the data energy's layers; 0 is no bound."
    )
    arithmetic: Annotated[str, OneOf(ARITHMETIC)] = Field(
        "float32", description="Number type inside the networks."
    )
    rematerialise: bool = Field(
        False, description="Whether activations are computed again in place of being kept."
    )


class Elbo(Section):
    """The variational bound: a baseline by itself, a warm start, and a term beside revision."""

    objective: Annotated[str, OneOf(OBJECTIVES)] = Field("mmvae", description="Which bound.")
    warmup_weight: Weight = Field(1.0, description="Weight of the bound before `warmup_steps`.")
    weight: Weight = Field(1.0, description="Weight of the bound afterwards.")
    beta: Weight = Field(1.0, description="β on the bound's divergence.")
    num_samples: int = Field(
        1, ge=1, le=1000, description="Samples K of each expert; `mmvae` alone."
    )
    estimator: Annotated[str, OneOf(ESTIMATORS)] = Field(
        "elbo",
        description="Estimator from these samples, of which stratum takes one expert's at random; "
        "`mmvae` alone.",
    )
    total_correlation: Share = Field(0.5, description="α of `mvtcae`.")
    expert_weight: Weight = Field(
        0.1, description="Weight α of the divergences from each expert in `jmvae`."
    )
    entropy_weight: Weight = Field(
        0.0, description="Weight of the subset weights' entropy in `code`."
    )
    shared_factor: Weight = Field(
        1.0, description="Factor on β for z, beside private latents; `mmvae` alone."
    )
    hidden_share: Share = Field(
        1.0,
        description="Share of the private latents of modalities other than the source that are "
        "hidden, drawn from r_n; 1 is MMVAE+. `mmvae` alone, not with `dreg`.",
    )
    hide_tokens: bool = Field(
        False,
        description="Whether the hidden share of text and categories is 1, so that what they say "
        "comes through z; `mmvae` alone.",
    )
    learned_prior: bool = Field(
        False, description="Whether the bound's prior is the learned one, as soon as there is one."
    )


class Chain(Section):
    """A Langevin chain v ← v − (s²/2) ∇U(v) + s √T ε."""

    num_steps: int = Field(10, ge=0, le=MOST_CHAIN_STEPS, description="Number of steps.")
    step_size: float = Field(0.1, ge=0, le=1e3, description="Step size s.")
    temperature: float = Field(1.0, ge=0, le=1e6, description="Temperature T.")
    gradient_clip: float = Field(
        0.0, ge=0, le=1e9, description="Bound on each example's norm of ∇U; 0 is none."
    )


class Posterior(Section):
    """Revision of the latents that the inference model draws for data."""

    generator_weight: Weight = Field(
        2.0, description="Weight of −log p(x | ũ), from which the generator learns."
    )
    inference_weight: Weight = Field(
        0.03, description="Weight of −log q(ũ | x), from which the inference model learns."
    )
    independent_inference: bool = Field(
        False, description="Whether each expert learns from ũ by itself, not as the aggregate."
    )
    scaled: bool = Field(
        False, description="Whether the chain steps in units of the inferred scales."
    )
    conditional_steps: int = Field(
        0,
        ge=0,
        le=MOST_CHAIN_STEPS,
        description="Steps of the chain in `sample(given=…)`; 0 is a draw of the inference model.",
    )
    private_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(w_m | z) in `sample(given=…)`, beside "
        "`prior.private_temperature`.",
    )
    chain: Chain = Chain()


class Prior(Section):
    """The prior p(z) ∝ exp(−E_γ(z)) p_0(z)."""

    family: Annotated[str, OneOf(FAMILIES)] = Field(
        "gaussian", description="Family of p_0 at location 0 and scale 1, and of p(w_m)."
    )
    fit_mixture: bool = Field(
        True, description="Whether p_0 becomes a Gaussian mixture fitted to revised latents."
    )
    learn_clusters: bool = Field(
        False,
        description="Whether the bound learns p_0 as a mixture of `num_components` unit Gaussians, "
        "their weights and means: CMVAE.",
    )
    num_components: Size = Field(60, description="Components of that mixture.")
    num_private_components: int = Field(
        0,
        ge=0,
        le=1000,
        description="Components of p_0(w_m | z) for each of them, fitted likewise; 0 leaves p(w_m) "
        "standard.",
    )
    shared_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(z) when latents are drawn from it: below 1 "
        "samples are less diverse and more coherent. What is inferred, and likelihoods, do not "
        "know it.",
    )
    private_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor on the covariances of p_0(w_m | z) after all fits: below 1 samples are "
        "less diverse and more coherent.",
    )
    token_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="A further such factor when private latents of text and categories are drawn, "
        "in training too: words are right or wrong, where a picture may be nearly right. Latents "
        "of what is given, and likelihoods, do not know it; nor do standard private priors.",
    )
    num_fit_examples: int = Field(
        15_000, ge=2, le=10**7, description="Training examples that it is fitted to."
    )
    fit_step: Step = Field(
        4000, description="Step of its first fit; it is fitted once more at the end."
    )
    learn: bool = Field(True, description="Whether the latent energy E_γ learns.")
    start_step: Step = Field(4000, description="Step from which it learns.")
    fit_steps: int = Field(
        300,
        ge=0,
        le=MOST_CHAIN_STEPS,
        description="Updates of the latent energy after the mixture's last fit.",
    )
    fit_learning_rate: Rate = Field(2e-3, description="Learning rate of these updates.")
    fit_weight_decay: Weight = Field(
        0.0, description="Weight decay of these updates, times the learning rate."
    )
    num_candidates: Size = Field(
        64, description="Draws of p_0 of which each chain starts at one, chosen by exp(−E_γ)."
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
    """The energy E_α(x) over all modalities, and what is learned from its samples."""

    learn: bool = Field(True, description="Whether the data energy E_α learns.")
    start_step: Step = Field(4200, description="Step from which it learns.")
    start: Annotated[str, OneOf(DATA_STARTS)] = Field(
        "generator", description="Where its chains start: the generator's samples, or noise."
    )
    penalty: Weight = Field(
        0.15, description="Weight of E_α(x)² + E_α(x̃)², which holds the gap near its inverse."
    )
    data_noise: Share = Field(0.01, description="σ of noise on the data that the energy sees.")
    noisy_samples: bool = Field(
        False,
        description="Whether refined samples get that noise too: the energy then learns nothing "
        "that is finer than it.",
    )
    synthesis_generator: Weight = Field(
        0.1, description="Weight λ_s of −log p(x̃ | u_p), from which the generator learns."
    )
    synthesis_inference: Weight = Field(
        0.03, description="Weight λ_i of −log q(u_p | x̃), from which the inference model learns."
    )
    chain: Chain = Chain(num_steps=10, step_size=0.7, temperature=5e-5)
    gap_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the gap between samples' and data's energies that training's chain "
        "closes: its step sizes then follow from both; 0 takes steps of `chain.step_size`.",
    )
    tokens: Annotated[str, OneOf(TOKENS)] = Field(
        "relaxed",
        description="What the data chain does to words and categories: it moves their "
        "probabilities (relaxed), or holds them at their likeliest values (held); or the samples "
        "that the energy learns from are completions of data's own (given), and held otherwise.",
    )
    sampling_time: float = Field(
        0.0,
        ge=0,
        le=MOST_TIME,
        description="Time for which samples are refined, a step of size s taking s²/2; 0 is that "
        "of `chain`. It is cut into `chain.num_steps` steps and sets their size for samples in the "
        "place of `chain.step_size`.",
    )
    fit_sampling_time: bool = Field(
        False,
        description="Whether that time is fitted after training instead: where samples are nearest "
        "to training data by the Fréchet distance of the inference model's means.",
    )
    num_candidates: int = Field(
        1,
        ge=1,
        le=64,
        description="Samples that are generated and refined for each one that `sample` returns.",
    )
    candidate_temperature: float = Field(
        4.0, gt=0, le=1e6, description="T: of the candidates one is drawn by exp(−E_α(x̃) / T)."
    )
    completion_temperature: float = Field(
        4.0, gt=0, le=1e6, description="T of the same choice where some modalities are given."
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
    """AdamW behind a bound on the gradient's norm."""

    learning_rate: Rate = Field(1e-3, description="Learning rate at its peak.")
    b1: ShareBelowOne = Field(0.9, description="Decay of the first moment.")
    b2: ShareBelowOne = Field(0.999, description="Decay of the second moment.")
    gradient_clip: float = Field(
        1000.0,
        gt=0,
        le=UNCLIPPED,
        description="Bound on the gradient's global norm; 1e9 means no bound.",
    )
    weight_decay: float = Field(
        0.0, ge=0, le=10, description="AdamW's: weights shrink by this times the rate each step."
    )


class Optimisers(Section):
    """One optimiser a network."""

    inference: Optimiser = Optimiser()
    generator: Optimiser = Optimiser()
    prior: Optimiser = Optimiser(learning_rate=3e-4, b1=0.5)
    energy: Optimiser = Optimiser(b1=0.0, b2=0.9)


class Schedule(Section):
    """Learning rates over time: a linear warm-up, then a cosine."""

    warmup_steps: Step = Field(50, description="Steps of the warm-up.")
    settle_step: Step = Field(
        0,
        description="Step until which generator and inference model decay; 0 is the run's end.",
    )
    freeze_step: Step = Field(
        0,
        description="Step from which generator and inference model stand still at their averaged "
        "weights: the prior's last fit is made then, and the data energy alone learns on; 0 is "
        "never.",
    )
    final_fraction: Share = Field(0.1, description="Last learning rate over its peak.")


class Guard(Section):
    """What a run is kept from: numbers that explode, which send it back, and CPUs."""

    retries: int = Field(
        3, ge=0, le=1000, description="How many times at most an explosion sends a run back."
    )
    halve_energy_rate: bool = Field(
        True, description="Whether each of these times halves the energies' learning rates."
    )
    energy_gap: Bound = Field(1e4, description="Bound on the energy gap's size; 0 is none.")
    gradient_norm: Bound = Field(
        0.0, description="Bound on any network's gradient norm; 0 is none."
    )
    device: Annotated[str, OneOf(DEVICES)] = Field(
        "any",
        description="What trains it: with `accelerator`, CPUs alone are told how long they would "
        "take, and refused.",
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
        description="Test examples that are completed and reconstructed, at most `num_samples`; "
        "from each of their modalities.",
    )
    classifier_steps: int = Field(
        600, ge=1, le=MOST_CHAIN_STEPS, description="Training steps of each classifier."
    )
    classifier_seeds: int = Field(
        3,
        ge=1,
        le=100,
        description="Classifiers of each modality: the first judges, all together give the spread.",
    )
    measures: Path = Field(
        "all",
        min_length=1,
        description="What to measure: `all` that the run has everything for, or names divided by "
        "commas, as `joint_samples,log_likelihood`; an unknown name lists them.",
    )
    inception_weights: Path = Field(
        "",
        description="For FID: pytorch-fid's file of weights, or a folder to download it to. "
        "Empty: no FID.",
    )
    mobilenet_weights: Path = Field(
        "",
        description="For FD-MobileNet, not FID: an `.npz` of MobileNetV1 1.0. Empty: none.",
    )
    polymnist_classifiers: Path = Field(
        "",
        description="Folder of PolyMNIST's released classifiers, `pretrained_img_to_digit_clf_m0` "
        "and so on, as further judges. Empty: none.",
    )
    importance_samples: int = Field(
        200, ge=1, le=10**6, description="Samples K of the importance-weighted bound."
    )
    likelihood_examples: int = Field(
        50, ge=2, le=10**6, description="Examples whose likelihood is estimated."
    )
    calibration_examples: int = Field(
        100, ge=10, le=10**6, description="Simulated examples by which posteriors are tested."
    )


class Config(Section):
    """A whole run."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the run.")
    batch_size: Size = Field(64, description="Examples of a step, over all devices.")
    num_steps: Every = Field(6000, description="Training steps.")
    warmup_steps: Step = Field(1500, description="Steps in which the bound acts alone.")
    revision_stride: Size = Field(
        4, description="Chains see every n-th example of a batch; the bound sees all."
    )
    accumulation_steps: Size = Field(
        1, description="Parts of a batch that are worked on one after the other: saves memory."
    )
    input: Input = Input()
    missing_ratio: ShareBelowOne = Field(
        0.0, description="Share of the training data's modalities that is hidden, at random."
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
        0.995, description="Decay of the moving average of the weights that samples come from."
    )
    guard: Guard = Guard()
    tracker: Annotated[str, OneOf(TRACKERS)] = Field(
        "none", description="Where metrics are written beside metrics.jsonl and TensorBoard."
    )
    log_every: Every = Field(50, description="Steps between rows of metrics.jsonl.")
    picture_every: Every = Field(1000, description="Steps between pictures.")
    checkpoint_every: Every = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        2, ge=1, le=10**6, description="How many checkpoints stay, the newest."
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
        """The bound, where it acts, has been derived for these experts."""
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
    """`Config` with the options of a data set as its section `data`.

    Raises:
      ValueError: there is no such data set.
    """
    section = data.section(data_name)
    return pydantic.create_model("Config", __base__=Config, data=(section, section()))


def defaults(data_name: str = DEFAULT_DATA) -> ml_collections.ConfigDict:
    """Every field at its default, for a config to change.

    Raises:
      ValueError: there is no such data set.
    """
    return ml_collections.ConfigDict(record(data_name)().model_dump())


def parse(config: Any) -> Config:
    """The record of a configuration, all of whose fields are given and hold what they may.

    Args:
      config: fields and sections, a `ConfigDict` or what a JSON file holds; options of the data
        alone may be left out.

    Raises:
      ValueError: one line that names the field, its value and what is allowed.
    """
    return validation.parse(record(_data_name(config)), config)


def differences(config: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Field → its value and its default, of those fields of a valid config where they differ."""
    given, usual = parse(config), record(_data_name(config))()
    return {
        name: (value, default)
        for name, _ in validation.leaves(type(given))
        if (value := at(given, name)) != (default := at(usual, name))
    }


def at(section: Record, name: str) -> Any:
    """The value of a field by a name like "prior.chain.num_steps"."""
    return functools.reduce(getattr, name.split("."), section)


def _data_name(config: Any) -> str:
    section = config.get("data") if hasattr(config, "get") else None
    if not isinstance(section, Mapping | ml_collections.ConfigDict):
        return DEFAULT_DATA  # What is wrong is told of the whole.
    named = {"name": section["name"]} if "name" in section else {}
    return validation.parse(data.Named, named, "config.data").name
