"""Values with units: `100 nF`, `100nF`, `5-V`, `10 kOhm`."""

import regex

_UNITS = (
    r"(?:[fpnuµμmkKMGTcd]?(?:Hz| ?[Oo]hms?|bps|bit|dBm?|mol|eV|Pa|Wh|Ah|VA|[FHVAWΩsmgBbJNLlKTC])"
    r"|[kKMGT]i?B|[kKMG]i?bits?|[fpnuµμmk]?(?:sec|min)|°[CF]|ppm|rpm|mil|baud|mph|[kM]?px|%)"
)
_NUMBER = r"\d+(?:[.,]\d+)*"
VALUE = rf"(?<![\w.,])(?P<number>{_NUMBER})(?P<gap>[ \u202f-]?)(?P<unit>(?:{_UNITS})|(?<![ -])(?i:{_UNITS}))(?![\w])"
"""Regular expression of a value. Behind a space, the unit must be written as usual: `5 V`, but not `5 v`."""
_THOUSANDS = regex.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_ZEROS = regex.compile(r"\.0+$")


def value_term(number: str, unit: str) -> str:
    """The term of a value: `1,000.0` and `kOhm` → `1000kω`."""
    unit = unit.lower().replace(" ", "").replace("µ", "u").replace("μ", "u").replace("ohms", "ω").replace("ohm", "ω")
    return f"{_ZEROS.sub('', number_term(number))}{unit}"


def number_term(number: str) -> str:
    """A number without separators of thousands."""
    return str(_THOUSANDS.sub("", number))
