"""Draws one phantom chest X-ray: random generators in, pixels and masks of pneumothoraces out.

A layer is float32 [512, 512]; layers are attenuations and add up, as tissue along a ray does.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from beam.phantoms import anatomy

DRAW_PX = 1024  # shapes are painted here without antialiasing,
LAYER_PX = 512  # and averaged down to here
BYTE_MEAN, BYTE_DEVIATION = 127.5, 73.9  # mean and standard deviation of a random byte
WHITE = 1.35  # attenuation of the spine behind the heart


# --- layers ---


def fill(shapes, pose, blur=0.0):
    """Return a layer 0..1 of filled outlines."""
    image = Image.new("L", (DRAW_PX, DRAW_PX))
    pen = ImageDraw.Draw(image)
    for points in shapes:
        pen.polygon(pixels(points, pose), fill=255)
    return to_layer(image, blur)


def stroke(lines, pose):
    """Return a layer 0..1 of (points, width, level) lines."""
    image = Image.new("L", (DRAW_PX, DRAW_PX))
    pen = ImageDraw.Draw(image)
    for points, width, level in lines:
        pen.line(pixels(points, pose), fill=int(255 * level), width=max(1, round(width * DRAW_PX)))
    return to_layer(image)


def pixels(points, pose):
    """Return points [N, 2] of the patient as a flat list x, y, … of pixels at DRAW_PX."""
    return ((points @ pose[:, :2].T + pose[:, 2]) * DRAW_PX).ravel().tolist()


def to_layer(image, blur=0.0):
    """Return an image of DRAW_PX as a layer 0..1, blurred by this fraction of its side."""
    image = image.reduce(DRAW_PX // LAYER_PX)
    if blur:
        image = image.filter(ImageFilter.BoxBlur(blur * LAYER_PX))
    return np.asarray(image, np.float32) / 255


def enlarge(field, side=LAYER_PX):
    """Return a float32 field [n, n] as [side, side], by bicubic interpolation."""
    return np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BICUBIC))


def soften(layer, cells):
    """Return the layer without detail finer than 1/cells of the image."""
    return enlarge(layer.reshape(cells, LAYER_PX // cells, cells, -1).mean((1, 3)))


def mottle(rng, cells):
    """Return a smooth random field of unit variance with `cells` bumps per side."""
    return enlarge(rng.standard_normal((cells, cells), np.float32))


# --- the picture ---


def draw(
    patient_rng: np.random.Generator,
    rng: np.random.Generator,
    sex: str,
    is_portable: bool,
    num_lesions: int,
    side: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return one X-ray, float32 [side, side] in 0..1 with air black, and a mask bool [side, side]
    per lesion.

    The anatomy comes from `patient_rng`, everything else from `rng`; `num_lesions`, 0 to 2, changes
    nothing but the lesions.
    """
    lesion_rng, scene_rng, noise_rng = rng.spawn(3)
    person = anatomy.body(patient_rng, sex)
    pose = random_pose(scene_rng, is_portable)
    attenuation, visible = chest(scene_rng, person, pose)
    markings = lung_markings(scene_rng, person, pose)
    lesions = anatomy.crescents(lesion_rng, person.lungs, num_lesions)
    holes = [fill([region], pose) * visible for region, _ in lesions]
    hole = np.clip(sum(holes, np.zeros_like(visible)), 0, 1)
    lines = [(pleura, lesion_rng.uniform(0.004, 0.005), 1) for _, pleura in lesions]
    attenuation += visible * (1 - hole) * markings
    attenuation += visible * lesion_rng.uniform(0.26, 0.36) * stroke(lines, pose)
    attenuation -= hole * lesion_rng.uniform(0, 0.05)
    attenuation += visible * look_alikes(scene_rng, person, pose)
    attenuation += devices(scene_rng, pose, is_portable)
    view = np.maximum(expose(scene_rng, attenuation), marker(scene_rng, is_portable))
    masks = [enlarge(layer, side) > 0.5 for layer in holes]
    return grain(noise_rng, view, side, is_portable), masks


def random_pose(rng, is_portable):
    """Return an affine map [2, 3] from the patient's frame to the image."""
    angle = rng.normal(0, 0.05 if is_portable else 0.02)
    scale = rng.uniform(0.95, 1.16)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([anatomy.CENTRE, anatomy.CENTRE])
    return np.column_stack([rotation, centre + rng.normal(0, 0.025, 2) - rotation @ centre])


def chest(rng, person, pose):
    """Return two layers: the attenuation of the chest without lung markings, and 0..1 where the
    lungs are visible."""
    half = anatomy.curve(anatomy.HALF_BODY, closed=False)
    trunk = fill([np.concatenate([half, anatomy.mirror(half)[::-1]])], pose)
    depth = np.clip(1.6 * soften(trunk, 16) - 0.6, 0, 1)
    heart, middle = fill([person.heart], pose, 0.005), fill([anatomy.MEDIASTINUM], pose, 0.006)
    left, right = (fill([lung], pose) for lung in person.lungs)
    lung = np.clip(left + right, 0, 1)
    visible = lung * (1 - 0.9 * heart) * (1 - 0.95 * middle)
    down = np.linspace(0, 1, LAYER_PX, dtype=np.float32)[:, None]
    abdomen = np.clip((down - 0.62) / 0.25, 0, 1) * (1 - lung)

    tissue = person.thickness * depth**0.7 * (0.5 + 0.5 * soften(trunk, 8)) * (1 + 0.3 * abdomen)
    tissue = trunk * (tissue + 0.05 * mottle(rng, 5) + 0.03 * mottle(rng, 10))
    tissue += 0.25 * middle * depth * (1 - 0.6 * abdomen) + 0.22 * heart * lung
    tissue -= 0.22 * fill([anatomy.TRACHEA], pose, 0.004)
    tissue += 0.15 * soften(
        fill([anatomy.ellipse(lung[anatomy.HILUM], (0.05, 0.07)) for lung in person.lungs], pose),
        64,
    )
    tissue += sum(0.14 * fill([breast], pose, 0.004) for breast in person.breasts)
    if rng.random() < 0.6:  # the stomach's air
        rim = anatomy.ellipse((0.62, 0.80), rng.uniform((0.04, 0.02), (0.09, 0.05)), points=8)
        bubble = anatomy.curve(rim + rng.normal(0, 0.006, rim.shape))
        tissue -= 0.3 * fill([bubble], pose, 0.005) * (1 - lung)
    tissue += skeleton(person.bones, pose) * trunk * (1 - 0.6 * abdomen)

    # Lungs differ more between the sides and from place to place than a lesion adds.
    more_left, more_right = person.lucency + rng.normal(0, 0.03, 2)
    air = 0.50 + more_left * left + more_right * right
    air += 0.05 * mottle(rng, 6) + 0.035 * mottle(rng, 12)
    near_wall = 0.45 + 0.55 * soften(lung, 32)  # near the wall a ray crosses less lung
    return tissue - visible * near_wall * air, visible


def skeleton(bones, pose):
    """Return the attenuation of bones, denser at their rims. They are filled in two groups, so that
    ribs that cross add up."""
    rims = [(np.concatenate([bone, bone[:1]]), 0.003, 1) for bone in bones]
    spine = [anatomy.VERTEBRA + (0, y) for y in np.arange(-0.05, 1.05, 0.056)]
    bulk = 0.07 * fill(bones[0::2], pose) + 0.06 * fill(bones[1::2], pose)
    return bulk + 0.06 * stroke(rims, pose) + 0.12 * fill(spine, pose, 0.003)


def lung_markings(rng, person, pose):
    """Return vessels and fine texture. They are about zero on average, so that a place without them
    is not darker."""
    lines = [(line, width, min(1, 0.35 + 60 * width)) for line, width in person.vessels]
    vessels = stroke(lines, pose)
    texture = 0.026 * mottle(rng, 64) + 0.040 * mottle(rng, 128) + 0.020 * mottle(rng, 256)
    return 0.40 * (vessels - 0.8 * soften(vessels, 32)) + texture


def look_alikes(rng, person, pose):
    """Return a layer of things that are mistaken for a pneumothorax: lucent places and skin folds,
    which have lung markings."""
    layer = np.zeros((LAYER_PX, LAYER_PX), np.float32)
    for lung in person.lungs:
        [(region, edge)] = anatomy.crescents(rng, [lung, lung], 1)
        if rng.random() < 0.3:
            layer -= rng.uniform(0.01, 0.07) * fill([region], pose, rng.uniform(0.001, 0.01))
        if rng.random() < 0.2:
            centre = 0.6 * lung[rng.integers(len(lung))] + 0.4 * lung[anatomy.HILUM]
            blob = anatomy.ellipse(centre, rng.uniform(0.02, 0.07, 2))
            layer -= rng.uniform(0.03, 0.10) * fill([blob], pose, 0.006)
        if rng.random() < 0.2:
            folds = [
                fill([anatomy.strip(edge[::-1], width)], pose) for width in (0.004, 0.012, 0.024)
            ]
            layer += rng.uniform(0.02, 0.05) * sum(folds)
    return layer


def devices(rng, pose, is_portable):
    """Return tubes, lines, ECG leads and a pacemaker, as often with a lesion as without."""
    share = 0.55 if is_portable else 0.10
    lines, blobs = [], []

    def wire(points, width, level):
        points = points + rng.normal(0, 0.012, (len(points), 2))
        lines.append((anatomy.curve(points, closed=False), width, level))

    if rng.random() < share:  # endotracheal tube
        wire([(0.5, -0.05), (0.5, 0.1), (0.5, 0.22), (0.5, 0.30)], 0.010, 0.5)
    if rng.random() < share:  # central venous line
        wire([(0.36, -0.05), (0.40, 0.12), (0.44, 0.22), (0.452, 0.32), (0.455, 0.42)], 0.005, 0.7)
    if rng.random() < share / 2:  # chest tube
        wire([(0.05, 0.62), (0.17, 0.56), (0.24, 0.45), (0.28, 0.32), (0.33, 0.24)], 0.008, 0.6)
    for _ in range(rng.integers(2, 5) if rng.random() < share else 0):  # ECG leads
        pad = rng.uniform((0.12, 0.2), (0.88, 0.7))
        end = rng.uniform((-0.1, 0.7), (1.1, 1.1))
        wire([pad, (pad + end) / 2 + rng.normal(0, 0.06, 2), end], 0.003, 0.6)
        blobs.append(anatomy.ellipse(pad, (0.012, 0.012)))
    if rng.random() < 0.08:  # pacemaker and its lead
        wire([(0.76, 0.26), (0.66, 0.20), (0.56, 0.28), (0.545, 0.45), (0.58, 0.70)], 0.004, 1.0)
        blobs.append(anatomy.ellipse((0.78, 0.27), (0.045, 0.035)))
    if rng.random() < 0.5:
        lines = [(anatomy.mirror(points), width, level) for points, width, level in lines]
        blobs = [anatomy.mirror(points) for points in blobs]
    return 0.35 * stroke(lines, pose) + 0.6 * fill(blobs, pose)


def marker(rng, is_portable):
    """Return a layer with the letters of the technician's marker."""
    image = Image.new("L", (DRAW_PX, DRAW_PX))
    pen = ImageDraw.Draw(image)
    is_right = rng.random() < 0.3  # the patient's right is at image left
    x, y = (
        rng.uniform((0.05, 0.03), (0.12, 0.12))
        if is_right
        else rng.uniform((0.84, 0.03), (0.92, 0.12))
    )
    font = ImageFont.load_default(rng.uniform(0.03, 0.05) * DRAW_PX)
    pen.text((x * DRAW_PX, y * DRAW_PX), "R" if is_right else "L", fill=230, font=font)
    if is_portable:
        x, y = rng.uniform((0.02, 0.15), (0.06, 0.9)) * DRAW_PX
        font = ImageFont.load_default(0.018 * DRAW_PX)
        pen.text((x, y), "AP\nPORTABLE", fill=240, font=font)
    return to_layer(image)


def expose(rng, attenuation):
    """Return the grey levels of a film-like tone curve with a random exposure and contrast;
    attenuation 0 is black."""
    middle, contrast = rng.uniform(0.55, 0.85), rng.uniform(0.20, 0.34)
    black, white = 1 / (1 + np.exp((middle - np.array([0, WHITE])) / contrast))
    view = 1 / (1 + np.exp((middle - attenuation) / contrast))
    return ((view - black) / (white - black) * rng.uniform(0.85, 1.0)).astype(np.float32)


def grain(rng, view, side, is_portable):
    """Return the view at its final size with quantum noise, stronger where fewer photons arrive."""
    strength = rng.uniform(0.006, 0.013) * (1.4 if is_portable else 1)
    view = enlarge(view, side)
    # Random bytes take a tenth of the time of normal deviates, and the sum of three neighbours is
    # close enough to a normal distribution for the eye.
    noise = np.frombuffer(rng.bytes((side + 1) ** 2), np.uint8).astype(np.uint16)
    noise = noise.reshape(side + 1, side + 1)
    noise = (noise[1:, 1:] + noise[1:, :-1] + noise[:-1, 1:]).astype(np.float32)
    noise = (noise - 3 * BYTE_MEAN) * (strength / BYTE_DEVIATION / np.sqrt(3))
    return np.clip(view + noise * (0.5 + view), 0, 1)
