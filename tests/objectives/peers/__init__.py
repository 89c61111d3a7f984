"""TRL's and verl's own functions as oracles.

    from tests.objectives.peers import trl_peer, verl_peer

    def test_mine():
        weights = verl_peer.weights("vanilla", log_probs, old, advantages, mask, clip_ratio_low=0.1)
        weights = trl_peer.grpo_weights(log_probs, old, advantages, mask, loss_type="bnpo", epsilon=0.2)
        advantages = verl_peer.advantages("rloo", rewards, mask, group_size=4)
        advantages = trl_peer.grpo_advantages(rewards, group_size=4, scale_rewards="batch")

Each call runs the peer's code unchanged; a test whose peer is not installed is skipped with the reason. `weights`
differentiates the peer's loss: minus ∂L/∂log π of each token, zero where masked, times the divisor that the docstring
names, so that it compares with `Objective.weights(batch).weight`. `verl_peer.module` and `trl_peer.trainer` reach what
has no helper here.

Importing the two libraries takes seconds: a module of tests that uses them sets `pytestmark = pytest.mark.slow`.
"""
