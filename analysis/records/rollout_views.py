"""One rollout and one token of a run, to look at: `run.rollout(…)` and `rollout[position]`.

Both show themselves in a notebook as plain HTML without scripts: the response with every token shaded by a quantity,
and the distribution at one token before and, where it was followed, after its update. Colours are transparent, so that
they are legible on a light and on a dark page. Everything that a model wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.notebook_html import NEGATIVE, POSITIVE, html_bar, html_table, shade, shortened, visible
from ..errors import UsageError
from .token_text import spelling_of

if TYPE_CHECKING:
    from .recorded import Recorded

__all__ = ["QUANTITIES", "RolloutView", "TokenView", "read_rollout"]

# quantity -> what the shade of a token means; `weight` has a colour for each sign
QUANTITIES: dict[str, str] = {
    "weight": "weight w of the token: blue pushes it up, orange pushes it down",
    "prob": "probability of the token",
    "entropy": "entropy of its context",
    "advantage": "advantage: blue positive, orange negative",
    "squeeze": "c − π(y): blue where a negative sample lifts all alternatives, orange where only the head",
}
_SIGNED = ("weight", "advantage", "squeeze")
_MOST_TOKENS = 400  # of a response that are shown in a notebook
_MOST_TEXT = 300  # characters of a prompt
_MOST_ALTERNATIVES = 8
_COLUMNS = [
    *("update", "position", "token", "log_prob", "one_minus_prob", "entropy", "collision", "token_rank"),
    *("advantage", "weight", "top_ids", "top_probs"),
]


@dataclass(frozen=True, repr=False)
class TokenView:
    """One sampled token as one update saw it.

    Attributes:
        run_id: The run.
        update: The optimiser update.
        step: The rollout batch.
        rollout: Index of the rollout in the batch.
        position: Index in the response.
        text: The token y as text.
        prefix: The tokens of the response before it, as text.
        values: What was recorded of it: prob, entropy (nats), collision, squeeze (c − π_y), weight, advantage, rank;
            None where it was not recorded.
        top: Its most probable tokens before the update: columns text, sampled, before and, where this context was
            followed through the update, after.
    """

    run_id: str
    update: int
    step: int
    rollout: int
    position: int
    text: str
    prefix: str
    values: dict[str, float | None]
    top: pd.DataFrame

    def __repr__(self) -> str:
        known = ", ".join(
            f"{name}={_number(self.values[name])}" for name in ("prob", "entropy", "weight") if self._has(name)
        )
        place = f"step={self.step}, rollout={self.rollout}, position={self.position}"
        return f"TokenView({shortened(self.text, 30)!r}, {place}, {known})"

    def _has(self, name: str) -> bool:
        return self.values.get(name) is not None

    @property
    def sentence(self) -> str:
        """What the token's own gradient asks for, in plain words; first order, without the rest of the batch."""
        weight, squeeze = self.values["weight"], self.values["squeeze"]
        if weight is None:
            return "No weight was recorded for this token."
        if weight == 0:
            return "The update gave this token no weight of its own."
        if weight > 0:
            return "Its own gradient pushes it up and every other token's logit down, in proportion to their mass."
        if squeeze is not None and squeeze > 0:
            return (
                f"Its own gradient pushes it down, and with it every alternative with less mass than {squeeze:.3g}: "
                "the more probable ones take it all."
            )
        return "Its own gradient pushes it down, and every alternative gains."

    def _repr_html_(self) -> str:
        """For notebooks: the distribution as bars, what was recorded, and a sentence."""
        facts = [(name, _number(value)) for name, value in self.values.items() if value is not None]
        title = f"Token {visible(shortened(self.text, 60))}"
        about = (
            f"· {self.run_id}, update {self.update}, step {self.step}, rollout {self.rollout}, position {self.position}"
        )
        head = html_table(title, about, [[value for _, value in facts]], columns=[name for name, _ in facts])
        before = f"<p>after <code>{escape(visible(_end(self.prefix)))}</code></p>" if self.prefix else ""
        return f"<div>{head}{before}{self._bars()}<p>{escape(self.sentence)}</p></div>"

    def _bars(self) -> str:
        if self.top.empty:
            return "<p>No other token of this context was recorded.</p>"
        followed = "after" in self.top
        rows = []
        for row in self.top.to_dict("records"):
            star = "★ " if row["sampled"] else ""
            cells = [f"<th>{star}{escape(visible(shortened(row['text'], 30)))}</th>", f"<td>{row['before']:.3f}</td>"]
            cells.append(f"<td>{html_bar(row['before'], sampled=row['sampled'])}</td>")
            if followed:
                change = f"{row['after'] - row['before']:+.4f}".replace("-", "−")
                cells.append(f"<td>{row['after']:.3f} ({change})</td>")
            rows.append(f"<tr>{''.join(cells)}</tr>")
        names = ["", "before", "", *(["after"] if followed else [])]
        return f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{''.join(rows)}</table>"


@dataclass(frozen=True, repr=False)
class RolloutView:
    """One sampled response with its recorded tokens; `rollout[position]` is one of them.

    Attributes:
        run_id: The run.
        label: Its method.
        step: The rollout batch.
        rollout: Index in the batch.
        prompt: The prompt as text.
        response: The response as text.
        reward: The reward that training saw; None where there was none.
        correct: The verifier's verdict; None where there was none.
        update: The update whose view of the tokens is shown; None where no token was recorded.
        updates: All updates that recorded its tokens.
        tokens: One row a recorded token, with text, prob and squeeze (c − π_y) besides the recorded columns.
        quantity: What shades the tokens in a notebook, one of `QUANTITIES`.
    """

    run_id: str
    label: str
    step: int
    rollout: int
    prompt: str
    response: str
    reward: float | None
    correct: bool | None
    update: int | None
    updates: tuple[int, ...]
    tokens: pd.DataFrame
    quantity: str
    after: dict[int, pd.DataFrame]

    def __repr__(self) -> str:
        verdict = "" if self.correct is None else f", correct={self.correct}"
        return (
            f"RolloutView(run={self.run_id!r}, step={self.step}, rollout={self.rollout}, reward={self.reward}{verdict}"
            f", tokens={len(self.tokens)}, {shortened(self.response, 40)!r})"
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[TokenView]:
        return (self[int(position)] for position in self.tokens["position"])

    def by(self, quantity: str) -> RolloutView:
        """The same rollout with its tokens shaded by another quantity.

        Args:
            quantity: one of `QUANTITIES`.

        Raises:
            UsageError: another name, or a quantity that was not recorded for any token.
        """
        if quantity not in QUANTITIES:
            raise UsageError(f"quantity: expected one of {', '.join(QUANTITIES)}, got {quantity!r}; choose one of them")
        if len(self.tokens) and self.tokens[quantity].isna().all():
            known = [name for name in QUANTITIES if self.tokens[name].notna().any()]
            raise UsageError(
                f"quantity: expected one that was recorded for these tokens, got {quantity!r}; "
                f"choose among {', '.join(known)}"
            )
        return replace(self, quantity=quantity)

    def __getitem__(self, position: int) -> TokenView:
        """The token at a position of the response, counted from 0.

        Raises:
            UsageError: no token was recorded there.
        """
        rows = self.tokens[self.tokens["position"] == position]
        if rows.empty:
            places = self.tokens["position"]
            known = f"{places.min()} to {places.max()}" if len(places) else "none: no token of it was recorded"
            raise UsageError(f"position: expected a recorded position ({known}), got {position!r}; choose one of these")
        row = rows.iloc[0]
        assert self.update is not None
        values = {
            name: _value(row[name]) for name in ("prob", "entropy", "collision", "squeeze", "weight", "advantage")
        }
        rank = _value(row["token_rank"])
        before = self.tokens.loc[self.tokens["position"] < position, "text"]
        return TokenView(
            run_id=self.run_id,
            update=self.update,
            step=self.step,
            rollout=self.rollout,
            position=int(position),
            text=row["text"],
            prefix="".join(before) if any(" " in text for text in before) else " ".join(before),
            values=values | {"rank": None if rank is None else rank + 1},
            top=self.after.get(int(position), row["top"]),
        )

    def _repr_html_(self) -> str:
        """For notebooks: prompt, verdict, and the response with every token shaded and its numbers on hover."""
        about = f"· {self.label}, step {self.step}, rollout {self.rollout}, reward {_number(self.reward)}"
        if self.correct is not None:
            about += ", correct" if self.correct else ", wrong"
        head = f"<p><b>Rollout</b> of {escape(self.run_id)} {escape(about)}</p>"
        prompt = f"<p>prompt <code>{escape(visible(shortened(self.prompt, _MOST_TEXT)))}</code></p>"
        if self.tokens.empty:
            text = escape(visible(shortened(self.response, 4 * _MOST_TEXT)))
            return f"<div>{head}{prompt}<p><code>{text}</code></p><p>No token of it was recorded.</p></div>"
        shown = self.tokens.iloc[:_MOST_TOKENS]
        scale = float(np.nanmax(np.abs(self.tokens[self.quantity].to_numpy(float)), initial=0.0))
        between = "<wbr>" if any(" " in text for text in self.tokens["text"]) else " "  # a vocabulary of whole words
        words = between.join(self._word(row, scale) for row in shown.to_dict("records"))
        left = len(self.tokens) - len(shown)
        more = f" … and {left:,} more tokens" if left else ""
        legend = f"Shaded by {QUANTITIES[self.quantity]}. Update {self.update}. rollout[position] shows one token."
        return (
            f"<div>{head}{prompt}<p style='line-height:2'>{words}{more}</p><p><small>{escape(legend)}</small></p></div>"
        )

    def _word(self, row: Mapping[Any, Any], scale: float) -> str:
        value = _value(row[self.quantity])
        size = 0.0 if value is None or not scale else abs(value) / scale
        color = NEGATIVE if value is not None and value < 0 else POSITIVE
        if self.quantity == "squeeze":  # a positive c − π_y drains the tail
            color = NEGATIVE if color == POSITIVE else POSITIVE
        numbers = [("position", row["position"]), *((name, _value(row[name])) for name in QUANTITIES)]
        hover = ", ".join(f"{name} {_number(number)}" for name, number in numbers if number is not None)
        return shade(visible(row["text"]), color if self.quantity in _SIGNED else POSITIVE, size, hover)


def read_rollout(
    run: Recorded, rollout: int, step: int | None, update: int | None, quantity: str | None
) -> RolloutView:
    """One rollout with its tokens; see `Run.rollout`."""
    place = _place(run, rollout, step)
    prompts = run.table("prompts", ["prompt_id", "text"], where=[("prompt_id", "==", place["prompt_id"])])
    where: list[tuple[str, str, object]] = [("step", "==", place["step"]), ("rollout", "==", rollout)]
    rows = run.table("tokens", _COLUMNS, where)
    updates = tuple(int(known) for known in np.unique(rows["update"]))
    if update is not None and update not in updates:
        known = ", ".join(map(str, updates)) or "none"
        raise UsageError(
            f"update: expected one that recorded the tokens of this rollout ({known}), got {update}; leave it out for "
            "the first"
        )
    chosen = update if update is not None else updates[0] if updates else None
    tokens = _with_texts(run, rows[rows["update"] == chosen].sort_values("position"))
    view = RolloutView(
        run_id=run.info["run_id"],
        label=run.info["label"],
        step=int(place["step"]),
        rollout=int(rollout),
        prompt=prompts["text"].iloc[0] if len(prompts) else "",
        response=place["response_text"],
        reward=_value(place["reward"]),
        correct=None if pd.isna(place["correct"]) else bool(place["correct"]),
        update=chosen,
        updates=updates,
        tokens=tokens,
        quantity="prob",
        after=_followed(run, chosen, int(place["step"]), int(rollout)),
    )
    if quantity is not None:
        return view.by(quantity)
    return view.by("weight") if tokens["weight"].notna().any() else view


def _place(run: Recorded, rollout: int, step: int | None) -> pd.Series:
    where: list[tuple[str, str, object]] = [("rollout", "==", rollout)]
    if step is not None:
        where.append(("step", "==", step))
    rows = run.table("rollouts", where=where)
    if rows.empty:
        known = run.table("rollouts", ["step", "rollout"])
        if known.empty:
            raise UsageError(f"rollout: expected recorded rollouts, got none in {run.folder} yet; resume the run first")
        if step is not None and step in set(known["step"]):
            known = known[known["step"] == step]
        steps = f"steps {known['step'].min()} to {known['step'].max()}"
        raise UsageError(
            f"rollout: expected one of {known['rollout'].min()} to {known['rollout'].max()} in {steps}, got rollout "
            f"{rollout}{'' if step is None else f' in step {step}'}; run.table('rollouts') lists them"
        )
    return rows.sort_values("step").iloc[0]


def _with_texts(run: Recorded, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `tokens` with text, prob, squeeze and the top tokens as frames."""
    spell = spelling_of(run)
    prob = np.exp(rows["log_prob"].to_numpy(float))
    tops = [
        _top(spell, row["token"], np.exp(row["log_prob"]), row["top_ids"], row["top_probs"])
        for row in rows.to_dict("records")
    ]
    return rows.drop(columns=["top_ids", "top_probs"]).assign(
        text=[spell(int(token)).text for token in rows["token"]],
        prob=prob,
        squeeze=rows["collision"].to_numpy(float) - prob,
        top=pd.Series(tops, index=rows.index, dtype=object),
    )


def _top(spell: Any, token: int, prob: float, ids: Any, probs: Any) -> pd.DataFrame:
    if ids is None or not len(ids):
        return pd.DataFrame({"text": [], "sampled": [], "before": []})
    known = {int(i): float(p) for i, p in zip(ids, probs, strict=True)} | {int(token): float(prob)}
    frame = pd.DataFrame(
        {
            "text": [spell(i).text for i in known],
            "sampled": [i == token for i in known],
            "before": list(known.values()),
        }
    )
    return _most(frame)


def _most(frame: pd.DataFrame) -> pd.DataFrame:
    """The most probable tokens and the sampled one, in falling order."""
    ordered = frame.sort_values("before", ascending=False, kind="stable").reset_index(drop=True)
    return ordered[(ordered.index < _MOST_ALTERNATIVES) | ordered["sampled"]]


def _followed(run: Recorded, update: int | None, step: int, rollout: int) -> dict[int, pd.DataFrame]:
    """Position -> top tokens before and after, of the contexts of this rollout that were followed through `update`."""
    if update is None:
        return {}
    where: list[tuple[str, str, object]] = [("step", "==", step), ("rollout", "==", rollout), ("kind", "==", "batch")]
    contexts = run.table("contexts", ["context", "position", "token"], where)
    if contexts.empty:
        return {}
    columns = ["context", "top_ids", "top_prob_before", "top_prob_after"]
    flows = run.table("flows", columns, [("update", "==", update), ("context", "in", contexts["context"].tolist())])
    spell, found = spelling_of(run), {}
    for row in flows.merge(contexts, on="context").to_dict("records"):
        frame = pd.DataFrame(
            {
                "text": [spell(int(i)).text for i in row["top_ids"]],
                "sampled": [int(i) == row["token"] for i in row["top_ids"]],
                "before": row["top_prob_before"].astype(float),
                "after": row["top_prob_after"].astype(float),
            }
        )
        found[int(row["position"])] = _most(frame)
    return found


def _value(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}".replace("-", "−")


def _end(text: str) -> str:
    """The last characters of a long text."""
    return text if len(text) <= _MOST_TEXT else "…" + text[-_MOST_TEXT:]
