"""Numbers below a million in words: English, German, Spanish. Pairs to translate, without files.

English is British: ``one hundred and one``, ``one thousand and five``. German, by the rules of the
Duden, is one word, and says a unit before its ten: 21 is ``einundzwanzig``. Spanish, by those of
the Real Academia, shortens ``uno`` before ``mil`` and ``ciento`` where nothing follows: 21,000 is
``veintiún mil``, 100 is ``cien``.

    987654   nine hundred and eighty-seven thousand six hundred and fifty-four
             neunhundertsiebenundachtzigtausendsechshundertvierundfünfzig
             novecientos ochenta y siete mil seiscientos cincuenta y cuatro
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

__all__ = ["IN_WORDS", "LARGEST", "Language", "in_english", "in_german", "in_spanish"]

Language: TypeAlias = Literal["english", "german", "spanish"]

LARGEST: Final = 999_999


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ENGLISH: Final = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_ENGLISH_TENS: Final = _words("twenty thirty forty fifty sixty seventy eighty ninety")

_GERMAN: Final = _words(
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn"
)
_GERMAN_TENS: Final = _words("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")

_SPANISH: Final = _words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro "
    "veinticinco veintiséis veintisiete veintiocho veintinueve"
)
_SPANISH_TENS: Final = _words("treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_SPANISH_HUNDREDS: Final = _words(
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos "
    "novecientos"
)


def in_english(number: int) -> str:
    """0 to 999,999; ValueError for others, as the other languages."""
    thousands, rest = _cut(number)
    if not thousands:
        return _english_below_1000(rest)
    words = _english_below_1000(thousands) + " thousand"
    if rest:
        words += (" and " if rest < 100 else " ") + _english_below_1000(rest)
    return words


def _english_below_1000(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if hundreds:
        words = f"{_ENGLISH[hundreds]} hundred"
        return f"{words} and {_english_below_1000(rest)}" if rest else words
    if number < 20:
        return _ENGLISH[number]
    tens, units = divmod(number, 10)
    return _ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH[units]}" if units else "")


def in_german(number: int) -> str:
    thousands, rest = _cut(number)
    if not number:
        return _GERMAN[0]
    words = _german_prefix(thousands) + "tausend" if thousands else ""
    if rest:
        words += _german_prefix(rest)
    # a 1 that ends a number is "eins"
    return words + "s" if number % 100 == 1 else words


def _german_prefix(number: int) -> str:
    """Of 1 to 999, as what follows it wants them."""
    hundreds, rest = divmod(number, 100)
    words = _GERMAN[hundreds] + "hundert" if hundreds else ""
    tens, units = divmod(rest, 10)
    if not rest:
        return words
    if rest < 20:
        return words + _GERMAN[rest]
    return words + (f"{_GERMAN[units]}und" if units else "") + _GERMAN_TENS[tens - 2]


def in_spanish(number: int) -> str:
    thousands, rest = _cut(number)
    if not thousands:
        return _spanish_below_1000(rest)
    words = _spanish_before_mil(thousands)
    return f"{words} {_spanish_below_1000(rest)}" if rest else words


def _spanish_before_mil(thousands: int) -> str:
    if thousands == 1:
        return "mil"
    words = _spanish_below_1000(thousands)
    if words.endswith("veintiuno"):
        words = words.removesuffix("uno") + "ún"
    elif words.endswith("uno"):
        words = words.removesuffix("o")
    return words + " mil"


def _spanish_below_1000(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if number == 100:
        return "cien"
    if hundreds:
        words = _SPANISH_HUNDREDS[hundreds - 1]
        return f"{words} {_spanish_below_1000(rest)}" if rest else words
    if number < 30:
        return _SPANISH[number]
    tens, units = divmod(number, 10)
    return _SPANISH_TENS[tens - 3] + (f" y {_SPANISH[units]}" if units else "")


def _cut(number: int) -> tuple[int, int]:
    """Thousands, and what is left."""
    if not 0 <= number <= LARGEST:
        raise ValueError(f"got {number}, expected a number from 0 to {LARGEST:,}")
    return divmod(number, 1000)


IN_WORDS: Final[Mapping[Language, Callable[[int], str]]] = {
    "english": in_english,
    "german": in_german,
    "spanish": in_spanish,
}
