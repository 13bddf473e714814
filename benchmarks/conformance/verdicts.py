"""What can come out of a case: it passes, is wrong, raises, or the library does not offer it."""

import math

CASES = {}


def case(function):
    """Enter a case, under its name, in the order of definition; its docstring says what it checks."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


class Verdict(Exception):  # noqa: N818
    """Ends a case with an outcome; `by` is how far off a wrong result is."""

    def __init__(self, outcome, detail="", by=None):
        super().__init__(detail)
        self.outcome, self.detail, self.by = outcome, detail, by

    def record(self):
        return {"outcome": self.outcome, "detail": self.detail, "by": self.by}


def unsupported(reason):
    return Verdict("unsupported", reason)


def check(holds, detail):
    if not holds:
        raise Verdict("wrong", detail)


def check_error(error, tolerance, detail):
    if math.isnan(error):
        raise Verdict("wrong", f"{detail}: NaN")
    if error > tolerance:
        raise Verdict("wrong", detail, float(error))


def record_of(case, *arguments):
    """Run a case and say what came out of it."""
    try:
        case(*arguments)
    except Verdict as verdict:
        return verdict.record()
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        return Verdict("raises", f"{type(error).__name__}: {first_line}").record()
    return Verdict("passes").record()
