"""Numbers in words, against grammars' own examples and against words made by rewriting."""

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from fwp_rl.tasks.number_words import IN_WORDS, LARGEST, Language

KNOWN: Mapping[Language, Mapping[int, str]] = {
    "english": {
        0: "zero",
        13: "thirteen",
        18: "eighteen",
        40: "forty",
        99: "ninety-nine",
        100: "one hundred",
        101: "one hundred and one",
        342: "three hundred and forty-two",
        1000: "one thousand",
        1005: "one thousand and five",
        1100: "one thousand one hundred",
        2019: "two thousand and nineteen",
        21_000: "twenty-one thousand",
        100_000: "one hundred thousand",
        987_654: "nine hundred and eighty-seven thousand six hundred and fifty-four",
    },
    "german": {
        0: "null",
        1: "eins",
        11: "elf",
        12: "zwölf",
        16: "sechzehn",
        17: "siebzehn",
        21: "einundzwanzig",
        30: "dreißig",
        66: "sechsundsechzig",
        77: "siebenundsiebzig",
        100: "einhundert",
        101: "einhunderteins",
        111: "einhundertelf",
        1000: "eintausend",
        1001: "eintausendeins",
        21_000: "einundzwanzigtausend",
        101_101: "einhunderteintausendeinhunderteins",
        987_654: "neunhundertsiebenundachtzigtausendsechshundertvierundfünfzig",
    },
    "spanish": {
        0: "cero",
        15: "quince",
        16: "dieciséis",
        20: "veinte",
        22: "veintidós",
        23: "veintitrés",
        26: "veintiséis",
        31: "treinta y uno",
        100: "cien",
        101: "ciento uno",
        500: "quinientos",
        700: "setecientos",
        900: "novecientos",
        1000: "mil",
        1001: "mil uno",
        2100: "dos mil cien",
        21_000: "veintiún mil",
        21_021: "veintiún mil veintiuno",
        31_000: "treinta y un mil",
        100_000: "cien mil",
        101_000: "ciento un mil",
        987_654: "novecientos ochenta y siete mil seiscientos cincuenta y cuatro",
    },
}

Rules = tuple[tuple[str, str], ...]


def rewritten(text: str, rules: Rules) -> str:
    for pattern, words in rules:
        text = re.sub(pattern, words, text)
    return text


def slow_english(number: int) -> str:
    """Regular words for each digit, then what is irregular."""
    digit = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def group(hundreds: int, tens: int, units: int) -> str:
        below = {0: digit[units] if units else "", 1: f"{digit[units]}teen"}.get(
            tens, f"{digit[tens]}ty" + (f"-{digit[units]}" if units else "")
        )
        return " and ".join(filter(None, [f"{digit[hundreds]} hundred" * bool(hundreds), below]))

    digits = [int(d) for d in f"{number:06d}"]
    thousands, rest = group(*digits[:3]), group(*digits[3:])
    raw = " and ".join(filter(None, [f"{thousands} thousand" * bool(thousands), rest])) or "zero"
    rules: Rules = (
        ("zeroteen", "ten"),
        ("oneteen", "eleven"),
        ("twoteen", "twelve"),
        ("threeteen", "thirteen"),
        ("fiveteen", "fifteen"),
        ("eightteen", "eighteen"),
        ("twoty", "twenty"),
        ("threety", "thirty"),
        ("fourty", "forty"),
        ("fivety", "fifty"),
        ("eightty", "eighty"),
        (r"thousand and (\w+ hundred)", r"thousand \1"),
    )
    return rewritten(raw, rules)


def slow_german(number: int) -> str:
    digit = ["null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]

    def group(hundreds: int, tens: int, units: int) -> str:
        words = f"{digit[hundreds]}hundert" * bool(hundreds)
        words += digit[units] * bool(units)
        words += "und" * (units > 0 and tens > 1)
        return words + {0: "", 1: "zehn"}.get(tens, f"{digit[tens]}zig")

    digits = [int(d) for d in f"{number:06d}"]
    thousands, rest = group(*digits[:3]), group(*digits[3:])
    raw = f"{thousands}tausend" * bool(thousands) + rest or "null"
    rules: Rules = (
        ("einzehn", "elf"),
        ("zweizehn", "zwölf"),
        ("sechsz", "sechz"),
        ("siebenz", "siebz"),
        ("zweizig", "zwanzig"),
        ("dreizig", "dreißig"),
        ("ein$", "eins"),
    )
    return rewritten(raw, rules)


def slow_spanish(number: int) -> str:
    digit = ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"]
    ten = [
        ".",
        "diez",
        "veinte",
        "treinta",
        "cuarenta",
        "cincuenta",
        "sesenta",
        "setenta",
        "ochenta",
        "noventa",
    ]

    def group(hundreds: int, tens: int, units: int) -> str:
        below = " y ".join(filter(None, [ten[tens] * bool(tens), digit[units] * bool(units)]))
        return " ".join(filter(None, [f"{digit[hundreds]}cientos" * bool(hundreds), below]))

    digits = [int(d) for d in f"{number:06d}"]
    thousands, rest = group(*digits[:3]), group(*digits[3:])
    raw = " ".join(filter(None, [f"{thousands} mil" * bool(thousands), rest])) or "cero"
    rules: Rules = (
        ("diez y uno", "once"),
        ("diez y dos", "doce"),
        ("diez y tres", "trece"),
        ("diez y cuatro", "catorce"),
        ("diez y cinco", "quince"),
        ("diez y ", "dieci"),
        ("veinte y ", "veinti"),
        ("dieciseis", "dieciséis"),
        ("veintidos", "veintidós"),
        ("veintitres", "veintitrés"),
        ("veintiseis", "veintiséis"),
        ("veintiuno mil", "veintiún mil"),
        ("uno mil", "un mil"),
        ("^un mil", "mil"),
        ("unocientos", "ciento"),
        ("ciento$", "cien"),
        ("ciento mil", "cien mil"),
        ("cincocientos", "quinientos"),
        ("sietecientos", "setecientos"),
        ("nuevecientos", "novecientos"),
    )
    return rewritten(raw, rules)


SLOW: Mapping[Language, Callable[[int], str]] = {
    "english": slow_english,
    "german": slow_german,
    "spanish": slow_spanish,
}


@pytest.mark.parametrize("language", IN_WORDS)
def test_numbers_that_grammars_name(language: Language) -> None:
    for number, words in KNOWN[language].items():
        assert IN_WORDS[language](number) == words


@pytest.mark.parametrize("language", IN_WORDS)
def test_words_are_those_of_digits_with_their_exceptions(language: Language) -> None:
    numbers = [*range(1200), *np.random.default_rng(0).integers(LARGEST + 1, size=3000).tolist()]
    edges = [
        1000 * thousands + rest for thousands in (1, 21, 100, 101, 700) for rest in (0, 1, 100)
    ]
    said = {}
    for number in {*numbers, *edges}:
        words = IN_WORDS[language](number)
        assert words == SLOW[language](number), number
        said[words] = number
    assert len(said) == len({*numbers, *edges}), "two numbers have the same words"


def test_others_are_refused() -> None:
    for number in (-1, LARGEST + 1):
        with pytest.raises(ValueError, match="expected a number from 0 to 999,999"):
            IN_WORDS["german"](number)
