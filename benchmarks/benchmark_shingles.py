"""Write `train/own_text/benchmarks.json`: shingles of the questions that no model is tuned on.

    python -m benchmarks.benchmark_shingles QUESTIONS...

QUESTIONS: files in FastChat's format, or names that `medusa-apar eval` knows.
"""

from __future__ import annotations

import json
import sys

from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.train.own_text.known_questions import BENCHMARKS, shingles_of

questions = [turn for source in sys.argv[1:] for question in load_questions(source) for turn in question.turns]
BENCHMARKS.write_text(json.dumps([sorted(shingles_of(turn)) for turn in questions], separators=(",", ":")) + "\n")
