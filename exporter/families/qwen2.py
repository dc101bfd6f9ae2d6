"""Qwen2 and Qwen2.5 (https://arxiv.org/abs/2407.10671): biases on queries, keys and values.

gte-Qwen2 states `is_causal` false, and so has attention both ways. The reward models of Qwen2.5-Math judge
every token, or every step of a proof.
"""

from ._decoders import family, past
from .registry import Layer, Reward

JUDGE = (Layer(name="score.0", activation="relu"), Layer(name="score.2"))
REWARDS = {
    "Qwen2ForRewardModel": Reward(layers=JUDGE, raw=True),
    # 151651 is <extra_0>, which ends each step.
    "Qwen2ForProcessRewardModel": Reward(layers=JUDGE, raw=False, step_tag_id=151651),
}

ARCHITECTURE = family(model_types=("qwen2",), stem="Qwen2", names=tuple(REWARDS), rewards=REWARDS, past=past)
