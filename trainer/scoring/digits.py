"""As many digits of a score as the number of images behind it supports.

A share of n images is uncertain by up to 0.5 / sqrt(n): 0.16 for ten, 0.016 for a thousand.
"""

import math

THOUSANDS, TENS = 1000, 10


def decimals(num_images: int) -> int:
    """Return the digits behind the point of a score between 0 and 1: three with thousands of
    images, two with tens, one with fewer."""
    if num_images >= THOUSANDS:
        return 3
    return 2 if num_images >= TENS else 1


def share(value: float, num_images: int) -> str:
    """Return a score between -1 and 1 as text; "<0.01" for a smaller one that is not 0, ">0.99" for
    what is not quite 1, "-" where it is not defined."""
    digits = decimals(num_images)
    if value < 1 and float(f"{value:.{digits}f}") == 1:
        return f">{1 - 10**-digits:.{digits}f}"
    return end(value, num_images)


def end(value: float, num_images: int) -> str:
    """Return an end of a score's interval as text, as `share` does, but 1 for one that is nearly 1:
    an interval claims nothing by it."""
    if math.isnan(value):
        return "-"
    digits = decimals(num_images)
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        smallest = f"{10**-digits:.{digits}f}"
        return f"<{smallest}" if value > 0 else f">-{smallest}" if value < 0 else f"{0:.{digits}f}"
    return text


def length(value: float, num_images: int) -> str:
    """Return a length, 0 or more, as text: two or three significant digits, and all digits before
    the point; "-" where it is not defined, "inf" where it is infinite."""
    if math.isnan(value):
        return "-"
    if math.isinf(value) or value == 0:
        return "inf" if value else "0"
    significant = max(2, decimals(num_images))
    return f"{value:.{max(0, significant - 1 - math.floor(math.log10(value)))}f}"
