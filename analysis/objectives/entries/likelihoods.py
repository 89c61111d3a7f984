"""Maximum likelihood, unlikelihood, and losses of a policy that the likelihood implies."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import NFT, Parameter
from .shared import OLD

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Likelihoods and implicit policies"

ENTRIES = (
    Entry(
        name="sft",
        title="SFT",
        weight="1",
        source="maximum likelihood",
        value="1",
        aliases=("supervised",),
        form="log",
        trl="SFTTrainer, loss_type = nll",
        verl="its SFT trainer",
        note="every response counts 1, whatever its reward; on correct ones alone it is psr-log",
    ),
    Entry(
        name="dft",
        title="DFT",
        weight="π_y",
        source="Wu et al., arXiv 2508.05629; TRL, SFTConfig.loss_type = dft",
        trl="SFTTrainer, loss_type = dft",
        formula="likelihoods.dft",
        value="1",
        needs=(),
        note="maximum likelihood times sg(π_y); every response counts 1, whatever its reward. On correct ones alone it "
        "is psr-probability",
    ),
    Entry(
        name="unlikelihood",
        title="Unlikelihood",
        weight="A·π_y/(1 − π_y), A = r − 1",
        source="Welleck et al., arXiv 1908.04319",
        formula="likelihoods.unlikelihood",
        parameters=(Parameter("floor", "no gradient where 1 − π_y is below this", above=0, high=1, default=1e-5),),
        value="r-1",
        note="of wrong responses. As in fairseq 1 − π_y is not differentiated below floor",
    ),
    Entry(
        name="nft",
        title="NFT",
        weight="correct: ω·ρ/max(ρ, floor); wrong: −ω·[qρ/(1 − q)]/max((1 − qρ)/(1 − q), ε)",
        source="Chen et al., arXiv 2505.18116",
        formula="likelihoods.nft",
        parameters=NFT,
        value="nft",
        needs=(*OLD, "accuracy"),
        note="straight through the maxima; q kept in [0.02, 0.98]; 0 where log ρ > 10. ω is the prompt weight",
    ),
    Entry(
        name="sequence-nft",
        title="NFT of sequences",
        weight="NFT with R = Π_t ρ_t in place of ρ",
        source="Chen et al., arXiv 2505.18116",
        formula="likelihoods.sequence_nft",
        parameters=NFT,
        value="nft",
        needs=(*OLD, "accuracy"),
        coupling="response",
        shared_loss=True,
        note="each token carries 1/|y| of its sequence's loss",
    ),
)
