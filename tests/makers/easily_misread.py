"""DICOM files whose pixels are there and easily misread: {name: (the file, its right values)}.

The values are [H, W], after the file's rescale; None where only readers are compared with each
other, as a table, a window or padding is what is easily misread.
"""

import io
import struct

import imagecodecs
import numpy as np
import pydicom
from makers import lossless_jpeg
from makers.dicom import jpeg, make, table
from makers.mutation_seeds import compressed, encoded, saved, smooth
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

Files = dict[str, tuple[bytes, np.ndarray | None]]
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
DEEP, DEPTH = smooth(12), {"BitsStored": 12, "HighBit": 11}


def files() -> Files:
    """Return all of them."""
    makers = (codestreams, words, precisions, tables, padded, palettes, headers, framings)
    return {name: file for maker in makers for name, file in maker().items()}


def codestreams() -> Files:
    """Return JPEG Lossless counted modulo 2^P, and the retired lossy processes."""
    result = {}
    for bits in (8, 12, 16):
        pixels, depth = smooth(bits), {"BitsStored": bits, "HighBit": bits - 1}
        for syntax, predictor in ((JPEGLosslessSV1, 1), (JPEGLossless, 4)):
            frame = lossless_jpeg.encode(pixels, bits, predictor, is_modulo=True)
            name = f"modulo {bits} bits, predictor {predictor}"
            result[name] = encoded(pixels, syntax, frame, **depth), pixels
    frame = imagecodecs.jpeg8_encode(DEEP, level=90, bitspersample=12)
    expected = imagecodecs.jpeg8_decode(frame)
    for number in (51, 53, 55):
        syntax = UID(f"1.2.840.10008.1.2.4.{number}")
        result[f"lossy .{number}"] = encoded(DEEP, syntax, frame, **DEPTH), expected
    stop = frame.rindex(b"\x3f\0", 0, frame.index(b"\xff\xda") + 12)
    no_stop = frame[:stop] + b"\0" + frame[stop + 1 :]
    result["scan stop 0"] = encoded(DEEP, JPEGExtended12Bit, no_stop, **DEPTH), expected
    return result


def words() -> Files:
    """Return pixels whose words have bits beside those of the value."""
    result = {}
    for dtype in (np.uint16, np.int16):
        values = DEEP.astype(int) - (2048 if dtype == np.int16 else 0)
        high = (values.astype(np.uint16) & 0xFFF).astype(np.uint16)
        high[10:14, 8:40] |= 0xA000
        stored = high.view(dtype)
        for syntax in NATIVE:
            result[f"overlay, {syntax.keyword}, {dtype.__name__}"] = (
                make(stored, syntax, **DEPTH),
                values,
            )
        frames = {
            JPEG2000Lossless: imagecodecs.jpeg2k_encode(high, codecformat="j2k", reversible=True),
            JPEGLSLossless: imagecodecs.jpegls_encode(high),
            JPEGLosslessSV1: lossless_jpeg.encode(high, 16),
        }
        for syntax, frame in frames.items():
            data = encoded(stored, syntax, frame, **DEPTH)
            result[f"overlay, {syntax.keyword}, {dtype.__name__}"] = data, values
        data = compressed(make(stored, **DEPTH), RLELossless)
        result[f"overlay, RLE, {dtype.__name__}"] = data, values
    for stored_bits, high_bit, kind in (
        (12, 15, "u2"),
        (10, 12, "u2"),
        (12, 15, "i2"),
        (6, 7, "u1"),
    ):
        values = smooth(stored_bits).astype(int) - (2048 if kind[0] == "i" else 0)
        shifted = (values << (high_bit + 1 - stored_bits)).astype(kind)
        data = make(shifted, BitsStored=stored_bits, HighBit=high_bit)
        result[f"high bit {high_bit} of {stored_bits}, {kind}"] = data, values
    return result


def precisions() -> Files:
    """Return codestreams whose precision is not Bits Stored."""
    eight, pixels = {"BitsStored": 8, "HighBit": 7}, smooth()
    wide, baseline = pixels.astype(np.uint16), jpeg(pixels)
    lossy = np.asarray(Image.open(io.BytesIO(baseline)))
    frames = {
        JPEGLosslessSV1: (lossless_jpeg.encode(pixels, 8), pixels),
        JPEGLSLossless: (imagecodecs.jpegls_encode(pixels), pixels),
        JPEG2000Lossless: (
            imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
            pixels,
        ),
        JPEGBaseline8Bit: (baseline, lossy),
    }
    result = {}
    for syntax, (frame, values) in frames.items():
        data = encoded(wide, syntax, frame, **eight)
        result[f"codestream of 8 bits in 16, {syntax.keyword}"] = data, values
        data = encoded(wide, syntax, frame, **DEPTH)
        result[f"codestream of 8 bits, 12 stored, {syntax.keyword}"] = data, values
    more = {
        JPEGLosslessSV1: lossless_jpeg.encode(wide, 12),
        JPEGLSLossless: imagecodecs.jpegls_encode(wide * 16),
    }
    result["codestream of 12 bits, 8 stored"] = (
        encoded(wide, JPEGLosslessSV1, more[JPEGLosslessSV1], **eight),
        pixels,
    )
    return result


def tables() -> Files:
    """Return files whose tables have another range, sign or purpose than is expected."""
    curve = np.rint(4095 / (1 + np.exp(-8 * (np.arange(4096) / 4095 - 0.5))))
    result = {}
    for bits in (8, 12, 16):
        data = make(DEEP, **DEPTH, VOILUTSequence=[table(curve, 0, bits)])
        result[f"VOI LUT of 12 bits with {bits} in its descriptor"] = data, None
        data = make(DEEP, **DEPTH, ModalityLUTSequence=[table(curve, 0, bits)])
        result[f"Modality LUT of 12 bits with {bits} in its descriptor"] = data, None
    signed = (DEEP.astype(int) - 2048).astype(np.int16)
    for vr, first in (("SS", -2048), ("US", 63488)):
        lut = table(curve, 0, 12)
        lut.add_new("LUTDescriptor", vr, [4096, first, 12])
        data = make(signed, **DEPTH, ModalityLUTSequence=[lut])
        result[f"Modality LUT of signed pixels, {vr}"] = data, None
    lut = table(np.linspace(80, 4022, 256), 0, 8)
    angiogram = make(
        smooth(),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1",
        PixelIntensityRelationship="LOG",
        WindowCenter=127,
        WindowWidth=255,
        ModalityLUTSequence=[lut],
    )
    colour = make(np.stack([smooth()] * 3, 2), ModalityLUTSequence=[lut])
    return result | {"XA's Modality LUT": (angiogram, None), "a colour's": (colour, smooth())}


def padded() -> Files:
    """Return radiographs with Pixel Padding, whose values stay and whose window is another."""
    tissue, result = 300 + DEEP.astype(int) // 10, {}
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        for padding, limit in ((0, None), (4095, None), (0, 20)):
            values = tissue.copy()
            values[:, :15] = padding
            values[:, -5:] = padding if limit is None else limit
            limits = {} if limit is None else {"PixelPaddingRangeLimit": limit}
            data = make(
                values.astype(np.uint16),
                **DEPTH,
                PhotometricInterpretation=photometric,
                PixelPaddingValue=padding,
                **limits,
            )
            result[f"padding {padding} to {limit}, {photometric}"] = data, None
    signed = tissue - 400
    signed[:, :15] = -2000
    data = make(signed.astype(np.int16), PixelPaddingValue=-2000, RescaleIntercept=-24)
    result["padding, signed"] = data, None
    grey = smooth() // 2 + 40
    grey[:, :15] = 255
    result["padding, JPEG"] = make(grey, JPEGBaseline8Bit, PixelPaddingValue=255), None
    result["padding, 8 bits"] = make(grey, PixelPaddingValue=255), None
    return result


def palettes() -> Files:
    """Return palettes in big-endian words, and of an odd number of bytes; red, green and blue are
    one."""
    result, pixels = {}, smooth() % 21
    ramp = (np.arange(256) * 255).astype(np.uint16)
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        dataset = pydicom.dcmread(io.BytesIO(make(smooth(), syntax)))
        data = _with_palette(dataset, [256, 0, 16], ramp.astype(f"{order}u2").tobytes())
        result[f"palette of 16 bits, {syntax.keyword}"] = data, None
    entries = np.linspace(0, 255, 21).astype(np.uint8)
    dataset = pydicom.dcmread(io.BytesIO(make(pixels)))
    data = _with_palette(dataset, [21, 0, 8], entries.tobytes() + b"\0")
    return result | {"palette of 21 bytes": (data, entries[pixels])}


def _with_palette(dataset: pydicom.Dataset, descriptor: list[int], entries: bytes) -> bytes:
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for channel in range(3):
        dataset.add_new(0x00281101 + channel, "US", descriptor)
        dataset.add_new(0x00281201 + channel, "OW", entries)
    return saved(dataset)


def headers() -> Files:
    """Return files whose elements are odd: lengths that look like representations, decimal commas,
    absent elements, a second file meta group."""
    values = smooth(12, (40, 257))  # 20,560 bytes: the letters PP
    result = {"a length of PP": (make(values, ImplicitVRLittleEndian, **DEPTH), values)}
    dataset = pydicom.dcmread(io.BytesIO(make(DEEP, ImplicitVRLittleEndian, **DEPTH)))
    dataset.add_new(0x00090010, "LO", "TEST")
    dataset.add_new(0x00091001, "UN", np.random.default_rng(0).bytes(23112))  # HZ
    result["a length of HZ"] = saved(dataset), DEEP
    window = {0x00281050: "2047,5", 0x00281051: "4095,0"}
    slope = {0x00281052: "0,0 ", 0x00281053: "1,0 "}
    word = {0x00281053: "ONE ", 0x00281052: "0 "}
    for name, texts in (("window", window), ("rescale", slope), ("word", word)):
        dataset = pydicom.dcmread(io.BytesIO(make(DEEP, **DEPTH)))
        for tag, text in texts.items():
            element = RawDataElement(Tag(tag), "DS", len(text), text.encode(), 0, False, True)
            dataset._dict[Tag(tag)] = element
        result[f"a decimal comma, {name}"] = saved(dataset), DEEP
    dataset = pydicom.dcmread(io.BytesIO(make(DEEP, **DEPTH)))
    del dataset.PhotometricInterpretation
    result["no Photometric Interpretation"] = saved(dataset), DEEP
    data = make(DEEP, **DEPTH)
    start = 144 + struct.unpack_from("<L", data, 140)[0]
    result["two file meta groups"] = data[:start] + data[132:start] + data[start:], DEEP
    spacing = {"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.143, 0.143]}
    return result | {"Pixel Spacing of 0": (make(DEEP, **DEPTH, **spacing), DEEP)}


def framings() -> Files:
    """Return pixel data without its last delimiter, and under another transfer syntax."""
    grey, result = smooth(), {}
    baseline = make(grey, JPEGBaseline8Bit)
    lossy = np.asarray(Image.open(io.BytesIO(jpeg(grey))))
    rle = compressed(make(DEEP, **DEPTH), RLELossless)
    delimiter = bytes.fromhex("feffdde000000000")
    for name, data, values in (("JPEG", baseline, lossy), ("RLE", rle, DEEP)):
        result[f"no delimiter, {name}"] = data[: data.rfind(delimiter)], values
        result[f"cut in a fragment, {name}"] = data[: data.rfind(delimiter) - 40], None
    native = ExplicitVRLittleEndian.encode()
    result["JPEG that says native"] = (
        baseline.replace(JPEGBaseline8Bit.encode(), native + b"\0" * 3),
        lossy,
    )
    dataset = pydicom.dcmread(io.BytesIO(baseline))
    dataset.PixelData = encapsulate([jpeg(grey)])
    plain = make(grey)
    length = struct.pack("<L", struct.unpack_from("<L", plain, 140)[0] + 2)
    old, new = b"UI\x14\0" + native + b"\0", b"UI\x16\0" + JPEGBaseline8Bit.encode()
    result["native that says JPEG"] = ((plain[:140] + length + plain[144:]).replace(old, new), grey)
    return result
