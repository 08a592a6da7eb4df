"""A phantom X-ray as a DICOM file, in the format of the SIIM-ACR challenge's. In: a seed and a
number. Out: a dataset of pydicom, of an invented patient, and its lesions' masks."""

import io
import math

import numpy as np
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from beam.phantoms import xray

SPACING_MM = (0.140, 0.170)  # lowest and highest for 1024 pixels, as most of SIIM-ACR
JPEG_QUALITY = 87  # makes files about as large as SIIM-ACR's
# Images 0-3, 4-7, … belong to one to four patients. Each tuple lists how many images each of these
# patients has, and the shares say how often a tuple is drawn.
PATIENTS_OF_FOUR = [(1, 1, 1, 1), (2, 1, 1), (1, 3), (4,)]
PATIENTS_OF_FOUR_SHARES = (0.7, 0.15, 0.1, 0.05)
TWO_LESIONS_SHARE, PORTABLE_SHARE = 0.2, 0.4
# Steps of 0.146 around a circle spread the positives evenly over the images, and still let two
# follow each other, as two images of one patient do.
GOLDEN_STEP = (7 - 3 * math.sqrt(5)) / 2


def make(number, seed, side, bits, photometric, positive_share):
    """Return the dataset of phantom `number`, and a mask bool [side, side] per lesion."""
    first_number, instance = patient_of(number, seed)
    rng = np.random.default_rng([seed, number])
    facts_rng, anatomy_rng = np.random.default_rng([seed, first_number, 1]).spawn(2)
    sex, age = facts_rng.choice(["F", "M"]), int(np.clip(facts_rng.normal(50, 17), 16, 94))
    is_portable = bool(rng.random() < PORTABLE_SHARE)
    num_if_positive = 2 if rng.random() < TWO_LESIONS_SHARE else 1
    num_lesions = num_if_positive if is_positive(number, seed, positive_share) else 0
    view, masks = xray.draw(anatomy_rng, rng, sex, is_portable, num_lesions, side)
    dataset = header(seed, number, first_number, instance)
    dataset.PatientSex, dataset.PatientAge = str(sex), f"{age:03d}Y"
    dataset.ViewPosition = "AP" if is_portable else "PA"
    dataset.SeriesDescription = f"view: {dataset.ViewPosition}"
    dataset.PixelSpacing = [round(facts_rng.uniform(*SPACING_MM) * 1024 / side, 6)] * 2
    put_pixels(dataset, view, bits, photometric)
    return dataset, [mask for mask in masks if mask.any()]


def patient_of(number, seed):
    """Return the number of the patient's first image, and this image's place among the patient's
    images, from 1."""
    first_number = number // 4 * 4
    rng = np.random.default_rng([seed, first_number, 2])
    for count in PATIENTS_OF_FOUR[rng.choice(len(PATIENTS_OF_FOUR), p=PATIENTS_OF_FOUR_SHARES)]:
        if number < first_number + count:
            break
        first_number += count
    return first_number, number - first_number + 1


def is_positive(number, seed, positive_share):
    """Return whether phantom `number` has a lesion."""
    offset = np.random.default_rng([seed, 0, 3]).random()
    return (offset + number * GOLDEN_STEP) % 1 < positive_share


def image_id(seed, number):
    return uid("image", seed, number)


def uid(kind, seed, number):
    """Return a UID that depends on kind, seed and number alone."""
    return generate_uid(entropy_srcs=[f"radlake phantom {kind}", str(seed), str(number)])


def header(seed, number, first_number, instance):
    """Return a dataset with the elements of a SIIM-ACR file for phantom `number`, of an invented
    patient; `first_number` and `instance` are those of `patient_of`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = image_id(seed, number)
    dataset.StudyInstanceUID = uid("study", seed, number)
    dataset.SeriesInstanceUID = uid("series", seed, number)
    patient = f"{first_number + 1:04d}"
    dataset.PatientID, dataset.PatientName = f"PHANTOM-{patient}", f"Phantom^{patient}"
    dataset.StudyDate, dataset.StudyTime = "19010101", "000000"
    dataset.PatientBirthDate = dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber = dataset.StudyID = ""
    dataset.PatientOrientation = ["L", "F"]
    dataset.Modality, dataset.ConversionType, dataset.BodyPartExamined = "CR", "WSD", "CHEST"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, instance
    return dataset


def put_pixels(dataset, view, bits, photometric):
    """Store a view [side, side] in 0..1: as JPEG Baseline for 8 bits, else as 16-bit words."""
    highest = 2**bits - 1
    values = np.round(view * highest).astype(np.uint8 if bits == 8 else np.uint16)
    if photometric == "MONOCHROME1":
        values = highest - values
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = values.itemsize * 8, bits, bits - 1
    dataset.PixelRepresentation = 0
    if bits > 8:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
        dataset.LossyImageCompression = "00"
        dataset.PixelData = values.astype("<u2").tobytes()
        return
    jpeg = io.BytesIO()
    Image.fromarray(values).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    dataset.LossyImageCompressionRatio = round(values.size / jpeg.tell(), 2)
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset["PixelData"].VR = "OB"
