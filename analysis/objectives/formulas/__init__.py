"""The two functions of each objective, `…_weight` and `…_loss`, in the module of its family.

A weight is (batch, parameters) -> weight and clip, a loss (log_probs, batch, parameters) -> loss of each token; of a
regulariser over the vocabulary `…_vector` and `…_loss` are functions of (logits, ref_logits, parameters). Each loss is
written as its paper or its code has it; a weight is its closed form, not its derivative by autograd.
"""
