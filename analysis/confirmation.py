"""The best trials of the search, played again: a table, and which of them won."""

from __future__ import annotations

import pandas as pd

from analysis.records import Records
from analysis.tables import number_texts

NOTE = (
    "The trials with the best selection scores, on seeds that the search had not used. The gap is "
    "selection score minus confirmed score: by how much the search has flattered a trial."
)


def winners(sweep: Records) -> pd.DataFrame:
    """The trial of each dataset that won: the best confirmed one, or selected while none is.

    Of two equals it is the one with the better selection score, and then the earlier one.
    """
    found = sweep.confirmations.drop_duplicates("trial").set_index("trial")["score"]
    done = sweep.trials.dropna(subset=["selection_score"])
    done = done.assign(confirmed=done["key"].map(found).astype("float64"))
    by = ["confirmed", "selection_score", "number"]
    ranked = done.sort_values(by, ascending=[False, False, True])
    return ranked.drop_duplicates("dataset").sort_values("dataset")


def confirmation_text(confirmations: pd.DataFrame) -> pd.DataFrame:
    """The confirmations of a sweep with every cell as text for a reader, the best first."""
    by = ["dataset", "score", "selection_score", "number"]
    table = confirmations.sort_values(by, ascending=[True, False, False, True])
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "trial": table["number"].astype("str"),
            "selection score": number_texts(table["selection_score"], "{:.1f}"),
            "confirmed score": number_texts(table["score"], "{:.1f}"),
            "gap": number_texts(table["gap"], "{:+.1f}"),
            "episodes": number_texts(table["episodes"], "{:.0f}"),
            "training seeds": number_texts(table["training_seeds"], "{:.0f}"),
            "reason": table["reason"].fillna(""),
        }
    )
