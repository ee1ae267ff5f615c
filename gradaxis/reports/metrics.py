"""The measured quantities that a report knows: how each is headed and what it means."""

from __future__ import annotations

from dataclasses import dataclass

ASSESSED = "assessed"
MEAN_REWARD = "mean_reward"
REWARD_VARIANCE = "reward_variance_share"
SILENT = "silent_groups"
EXPECTED_SILENT = "expected_silent_groups"
SILENT_WEIGHT = "silent_weight"
SAMPLE_SIZE = "ess"
SEQUENCE_WEIGHTS = "sequence weights"
CLIPPED = "clip_fraction"
CRITICAL_BATCH = "critical_batch_size"
SIGNAL_TO_NOISE = "snr"
SQUARED_MEAN = "squared_mean"
EQUAL_GAIN = "noise_ratio_at_equal_gain"
TO_RESOLVE = "prompts_to_resolve"
GAIN = "gain"
COSINE = "cosine"
ORTHOGONAL = "orthogonal_bias"
EFFICIENCY = "efficiency"
ENTROPY = "entropy"
ENTROPY_BY_POSITION = "entropy_by_position"
ENTROPY_CHANGE = "entropy_change"
ENTROPY_PRICE = "entropy_price"
BETWEEN_METHODS = ("method_cosine", "coefficient_cosine")
COINCIDING = "coincides"
SLOT_DIRECTION = "slot_effect"
SLOT_NOISE = "slot_effect_on_noise"
SLOT_BIAS = "slot_effect_on_bias"
RANK = "efficiency_rank"
EFFICIENCY_RATIO = "efficiency_ratio"
FORECAST, FORECAST_PER_REWARD, FUNCTIONAL = "forecast", "forecast_per_reward", "functional_value"
KL_GAIN, KL_COSINE, KL_SIZE = "kl_pull_gain", "kl_pull_cosine", "kl_pull_size"
KL_ESTIMATES = ("kl_value", "kl_estimate", "kl_estimate_per_token")
CURVE_ENDS = ("correction_stops_helping", "correction_helps_until", "direction_holds_until")
NOISE_WITHIN, EFFECTIVE_RANK = "noise_share_within_prompts", "effective_rank"
PLACES = (("noise_share_by_layer", "layer"), ("noise_share_by_position", "position"))


@dataclass(frozen=True)
class Metric:
    """A quantity of the comparison: its name in the rows, its heading with the unit, and whether it is a share."""

    name: str
    heading: str
    share: bool = False


COMPARED = (
    Metric(COSINE, "cosine with ∇J"),
    Metric(ORTHOGONAL, "orthogonal bias"),
    Metric(GAIN, "gain"),
    Metric(EFFICIENCY, "efficiency", share=True),
    Metric(SIGNAL_TO_NOISE, "signal-to-noise"),
    Metric(CRITICAL_BATCH, "critical batch size (prompts)"),
    Metric(ENTROPY_CHANGE, "entropy change (nats a token per unit step)"),
    Metric(CLIPPED, "clipped tokens", share=True),
    Metric(SILENT_WEIGHT, "weight on silent groups", share=True),
)
"""The columns of the comparison, in order."""

OF_ROLLOUTS = (
    Metric(MEAN_REWARD, "mean reward"),
    Metric("mean_length", "mean length (tokens)"),
    Metric("truncated_share", "truncated answers", share=True),
    Metric(SAMPLE_SIZE, "ESS / N", share=True),
    Metric("exact_ess", "ESS / N, expected", share=True),
    Metric("chi2", "χ² of the weights"),
    Metric("outlier_ratios", "ratios outside [0.5, 2]", share=True),
    Metric("largest_log_ratio", "largest log-ratio of a token (nats)"),
    Metric(SILENT, "silent groups, observed", share=True),
    Metric(EXPECTED_SILENT, "silent groups, expected", share=True),
    Metric("all_right_groups", "silent groups, all right", share=True),
    Metric("all_wrong_groups", "silent groups, all wrong", share=True),
    Metric("constant_groups", "silent groups, all alike in between", share=True),
    Metric("effective_groups", "groups that are not silent"),
    Metric("effective_samples", "answers in groups that are not silent"),
    Metric(ENTROPY, "entropy (nats a token)"),
    Metric("entropy_top_share", "entropy in", share=True),
    Metric("distinct_answers", "distinct answers a group"),
    Metric("expected_distinct_answers", "distinct answers a group, expected"),
    Metric(REWARD_VARIANCE, "reward variance explained", share=True),
)
"""What is measured on the rollouts themselves, in order."""

DEFINITIONS = (
    (
        "∇J",
        "The gradient of the expected task reward. A KL or entropy term that a method declares is its own aim and "
        "is never counted as bias; only the rest of its gradient is compared with ∇J.",
    ),
    (
        "gain",
        "c = ⟨E ĝ, ∇J⟩ / |∇J|²: the length of the expected step along ∇J. A learning rate absorbs it, so it is no "
        "fault by itself.",
    ),
    (
        "cosine with ∇J",
        "cos(E ĝ, ∇J): 1 when the expected gradient points along ∇J, whatever its length.",
    ),
    (
        "orthogonal bias",
        "|E ĝ − c ∇J| / |c ∇J|: the part of the expected gradient across ∇J, relative to the part along it; the "
        "tangent of the angle.",
    ),
    (
        "efficiency",
        "⟨E ĝ, ∇J⟩² / (|∇J|² · E|ĝ|²): the share of the best first-order improvement that an update of this size "
        "gets; cosine² lowered by noise.",
    ),
    (
        "signal-to-noise",
        "n |E ĝ|² / tr Σ for the n prompts measured: signal energy over noise energy. Below 1 the update is "
        "mostly noise.",
    ),
    (
        "critical batch size",
        "tr Σ / |E ĝ|²: the number of prompts at which noise and signal are equal. An interval without an upper "
        "end means that the signal is not clear of zero.",
    ),
    (
        "noise at equal gain",
        "(tr Σ / c²) of one method over that of another, on the same rollouts: how many times more prompts it "
        "needs for the same precision along ∇J.",
    ),
    (
        "entropy change",
        "⟨∇H, ĝ⟩: the first-order change of the policy's mean entropy a token, at the contexts of these rollouts, "
        "for each unit of step along ĝ.",
    ),
    (
        "clipped tokens",
        "The share of policy tokens whose weight the trust region changes. Fresh rollouts have every ratio at 1, "
        "so nothing is clipped there.",
    ),
    (
        "ESS / N",
        "(Σ w)² / (N Σ w²) of the weights π/μ of whole sequences (of tokens where said): the share of samples "
        "that an unbiased correction for staleness leaves.",
    ),
    (
        "silent group",
        "A group whose answers all earn the same reward, so that a comparison within the group carries no signal.",
    ),
    (
        "slot effect",
        "1 − cosine between a method's gradient and that of the same method with one slot as its parent (or GRPO) "
        "has it. Blame is assigned by replacing slots, never by splitting a gradient.",
    ),
    (
        "change of the cosine",
        "The cosine with ∇J of a method with one slot as another has it, less that of the method itself, on the same "
        "rollouts. Above zero the slot turns the method away from ∇J, and undoing it is a fix.",
    ),
    (
        "fresh, stale, inner step",
        "The point in the update. Fresh: the policy's own rollouts. Stale: rollouts of an older policy. Inner "
        "step k: after k minibatch steps on the same rollouts.",
    ),
)
"""Terms of the report and what they mean."""

_WORDS = {metric.name: metric.heading for metric in (*COMPARED, *OF_ROLLOUTS)}


def in_words(metric: str) -> str:
    """A metric's name as text: its heading, or its own words without underscores."""
    return _WORDS.get(metric, metric.replace("_", " "))
