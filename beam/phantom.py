"""Draws one phantom chest X-ray: random generators in, pixels and masks of pneumothoraces out.

Lengths are fractions of the image's side, points are (x, y) with y down, image left is the
patient's right. A layer is float32 [512, 512]; layers are attenuations and add up, as tissue along
a ray does.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

DRAW_PX = 1024  # shapes are painted here without antialiasing,
LAYER_PX = 512  # and averaged down to here
CENTRE, APEX_Y = 0.5, 0.16
WHITE = 1.35  # attenuation of the spine behind the heart
BYTE_MEAN, BYTE_DEVIATION = 127.5, 73.9  # of a random byte

# fmt: off
# The lung at image left, from its medial apex over the apex and down the wall, along the diaphragm
# and up the heart.
LUNG = np.array([(0.430, 0.210), (0.378, 0.158), (0.305, 0.175), (0.238, 0.265), (0.192, 0.420),
                 (0.166, 0.580), (0.155, 0.725), (0.160, 0.785), (0.200, 0.745), (0.285, 0.695),
                 (0.370, 0.700), (0.430, 0.750), (0.445, 0.660), (0.448, 0.520), (0.446, 0.360)])
CURVE_STEPS = 12  # points drawn for each of them
WALL_POINTS = 8  # the first of them lie on the chest wall
HILUM = int(13.5 * CURVE_STEPS)  # the drawn point where the vessels enter
HEART = np.array([(0.470, 0.40), (0.550, 0.41), (0.590, 0.49), (0.640, 0.60), (0.665, 0.70),
                  (0.640, 0.79), (0.500, 0.80), (0.430, 0.76), (0.425, 0.66), (0.440, 0.54)])
MEDIASTINUM = np.array([(0.450, -0.1), (0.550, -0.1), (0.545, 0.20), (0.560, 0.27), (0.580, 0.33),
                        (0.560, 0.38), (0.555, 0.44), (0.550, 1.1), (0.450, 1.1), (0.445, 0.44),
                        (0.452, 0.30), (0.455, 0.20)])
HALF_BODY = np.array([(0.425, -0.10), (0.420, 0.05), (0.370, 0.105), (0.200, 0.155), (0.030, 0.22),
                      (-0.05, 0.33), (-0.14, 0.60), (-0.20, 0.80), (-0.08, 0.80), (0.020, 0.60),
                      (0.065, 0.52), (0.085, 0.62), (0.075, 0.80), (0.050, 1.10)])
SCAPULA = np.array([(0.235, 0.20), (0.205, 0.30), (0.165, 0.42), (0.135, 0.50), (0.105, 0.42),
                    (0.085, 0.30), (0.060, 0.245)])
CLAVICLE = np.array([(0.455, 0.225), (0.40, 0.215), (0.33, 0.19), (0.25, 0.185), (0.10, 0.18)])
HUMERUS = np.array([(0.055, 0.235), (0.04, 0.29), (0.0, 0.40), (-0.07, 0.60), (-0.13, 0.80)])
BREAST = np.array([(0.13, 0.52), (0.20, 0.49), (0.30, 0.52), (0.36, 0.62), (0.35, 0.71),
                   (0.28, 0.765), (0.18, 0.77), (0.10, 0.71)])
TRACHEA = np.array([(0.488, -0.05), (0.512, -0.05), (0.514, 0.30), (0.50, 0.345), (0.486, 0.30)])
VERTEBRA = np.array([(0.468, 0), (0.532, 0), (0.526, 0.021), (0.532, 0.042), (0.468, 0.042),
                     (0.474, 0.021)])
# Where air collects, in points of LUNG: over the apex, apex and upper wall, the whole wall, the
# lateral wall, the costophrenic angle.
WALL_SPANS = np.array([(0.0, 3.3), (0.2, 4.6), (0.3, 6.8), (2.2, 6.0), (4.4, 6.9)])
SPAN_SHARES = (0.32, 0.30, 0.16, 0.12, 0.10)
MEDIAN_AREA, AREA_SPREAD, AREAS = 0.030, 0.75, (0.0012, 0.10)  # of lesions: log-normal
# fmt: on


class Body(NamedTuple):
    """One patient: the same in every one of the patient's images."""

    lungs: list  # two outlines [N, 2], image left first
    heart: np.ndarray  # [N, 2]
    vessels: list  # (two points [2, 2], width) each
    bones: list  # outlines [N, 2]
    breasts: list  # outlines [N, 2]; empty without
    thickness: float
    lucency: np.ndarray  # [2]: how much more air either lung holds


def curve(points, closed=True):
    """A smooth line through points (Catmull-Rom), CURVE_STEPS points for each."""
    padded = np.pad(points, ((1, 2), (0, 0)), "wrap" if closed else "edge")
    a, b, c, d = (padded[k : len(padded) - 3 + k, None] for k in range(4))  # [N, 1, 2] each
    u = np.linspace(0, 1, CURVE_STEPS, endpoint=False)[None, :, None]
    line = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    return line.reshape(-1, 2) if closed else line.reshape(-1, 2)[: 1 - CURVE_STEPS]


def mirror(points):
    return np.stack([2 * CENTRE - points[:, 0], points[:, 1]], axis=1)


def strip(line, width):
    """The outline of a band of `width` about a line [N, 2]."""
    along = np.gradient(line, axis=0)
    across = along[:, ::-1] * (-width / 2, width / 2) / np.hypot(*along.T)[:, None]
    return np.concatenate([line + across, (line - across)[::-1]])


def ellipse(centre, radii, points=32):
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], 1) * radii + centre


# --- geometry of a patient ---


def body(rng, sex):
    """A patient's proportions from the patient's own generator."""
    stretch = np.array([rng.uniform(0.92, 1.10), rng.uniform(0.84, 1.08)])
    origin = np.array([CENTRE, APEX_Y])

    def grow(points, jitter=0.004):
        return (points - origin) * stretch + origin + rng.normal(0, jitter, points.shape)

    lower_dome = (0, 0.012) * (LUNG[:, 1:] > 0.6)  # the left one, at image right
    lungs = [curve(grow(LUNG)), mirror(curve(grow(LUNG + lower_dome)))]
    heart = curve(grow(HEART) * (rng.uniform(0.90, 1.18), 1))
    heart[:, 0] += CENTRE + 0.03 - heart[:, 0].mean()
    clavicle, humerus = (curve(grow(line, 0.006), closed=False) for line in (CLAVICLE, HUMERUS))
    shoulder = [curve(grow(SCAPULA, 0.008))]
    shoulder += [
        strip(clavicle, rng.uniform(0.016, 0.024)),
        strip(humerus, rng.uniform(0.04, 0.055)),
    ]
    bones = shoulder + ribs(rng, lungs[0])
    bones += [mirror(bone) for bone in shoulder + ribs(rng, mirror(lungs[1]))]
    breast = curve(grow(BREAST, 0.012))
    return Body(
        lungs=lungs,
        heart=heart,
        vessels=vessel_tree(rng, lungs[0]) + vessel_tree(rng, lungs[1]),
        bones=bones,
        breasts=[breast, mirror(breast)] if sex == "F" and rng.random() < 0.8 else [],
        thickness=rng.uniform(0.88, 1.15),
        lucency=rng.normal(0, 0.05, 2),
    )


def ribs(rng, lung, count=10, anterior_count=7):
    """Outlines of the posterior and anterior ribs over a lung at image left."""
    wall = lung[CURVE_STEPS : WALL_POINTS * CURVE_STEPS]  # without its medial part, so y rises
    pitch, width = rng.uniform(0.060, 0.070), rng.uniform(0.015, 0.021)
    quarter = np.linspace(0, np.pi / 2, 24)
    spine_x = 0.462
    outlines = []
    for k in range(count):
        spine_y = APEX_Y + 0.015 + k * pitch + rng.normal(0, 0.002)
        drop = 0.045 + 0.014 * k
        wall_x = np.interp(spine_y + drop, *wall.T[::-1]) - 0.006
        x = spine_x + (wall_x - spine_x) * np.sin(quarter)
        y = spine_y + drop * (1 - np.cos(quarter)) - 0.02 * np.sin(2 * quarter)
        outlines.append(strip(np.stack([x, y], 1), width))
        if k < anterior_count:
            reach = (spine_x - wall_x) * rng.uniform(0.60, 0.72)
            x = wall_x + reach * (1 - np.cos(quarter))
            y = spine_y + drop + (0.07 + 0.012 * k) * np.sin(quarter)
            outlines.append(strip(np.stack([x, y], 1), width * 1.15))
    return outlines


def vessel_tree(rng, lung, tips=420):
    """(Two points, width) of vessels from the hilum to random places of a lung."""
    hilum = lung[HILUM]
    reach = np.sqrt(rng.uniform(0.01, 1, (tips, 1)))
    nodes = reach * (lung[rng.integers(len(lung), size=tips)] - hilum)
    nodes = nodes[np.argsort(np.hypot(*nodes.T))]
    nodes = np.concatenate([np.zeros((1, 2)), nodes]).astype(np.float32)  # the hilum is node 0
    radius, angle = np.hypot(*nodes.T), np.arctan2(*nodes.T)
    # A parent lies clearly nearer to the hilum, in about the same direction: branches run outwards.
    outwards = radius[:, None] - radius[None]  # [child, parent]
    aside = radius[:, None] * np.sin((angle[:, None] - angle[None]) / 2)
    cost = np.where(outwards > 0.06 * radius[:, None], outwards**2 + 9 * aside**2, np.inf)
    cost[:, 0] = outwards[:, 0] ** 2
    parent = cost.argmin(axis=1)
    fed = np.ones(len(nodes))  # tips that a node's blood goes to
    for child in range(len(nodes) - 1, 0, -1):
        fed[parent[child]] += fed[child]
    straighten(nodes, parent, fed)
    # Murray's law: the cube of the width is shared among the branches.
    widths = np.minimum(0.0022 * np.cbrt(fed), 0.009)
    return [(nodes[[parent[k], k]] + hilum, widths[k]) for k in range(1, len(nodes))]


def straighten(nodes, parent, fed, rounds=3):
    """Moves branching points [N, 2] in place towards the line from the parent to what they feed."""
    branches = fed > 1
    for _ in range(rounds):
        onward = np.zeros_like(nodes)
        np.add.at(onward, parent[1:], nodes[1:] * fed[1:, None])
        onward = onward[branches] / (fed[branches, None] - 1)
        nodes[branches] = 0.5 * nodes[branches] + 0.25 * (nodes[parent[branches]] + onward)


# --- lesions, and what looks like one ---


def crescent(rng, lung, span, area):
    """A region [N, 2] of about `area` between chest wall and displaced pleura, and that pleura."""
    first, last = np.clip(span + rng.normal(0, 0.2, 2), 0, WALL_POINTS - 1) * CURVE_STEPS
    wall = lung[int(first) : int(last)]
    u = np.linspace(0, 1, len(wall))
    ripple = 1 + 0.12 * np.sin(2 * np.pi * (rng.uniform(1, 2.5) * u + rng.random()))
    bulge = np.sin(np.pi * u ** rng.uniform(0.8, 1.6)) ** rng.uniform(0.5, 1.0)
    shallow, deep = 0.0, min(0.7, 0.13 * (last - first) / CURVE_STEPS)  # a short span stays shallow
    for _ in range(12):  # area grows with depth
        depth = (shallow + deep) / 2
        # The lung collapses towards its hilum, so the pleura cannot cross itself.
        pleura = wall + (depth * bulge * ripple)[:, None] * (lung[HILUM] - wall)
        region = np.concatenate([wall, pleura[::-1]])
        shallow, deep = (depth, deep) if polygon_area(region) < area else (shallow, depth)
    # Where it lies on the wall, the pleura cannot be seen.
    gap = np.hypot(*(pleura - wall).T)
    return region, pleura[gap > min(0.004, gap.max() / 2)]


def polygon_area(points):
    x, y = points.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def crescents(rng, lungs, count):
    """0 to 2 crescents that do not touch: one lung, both, or the two ends of one."""
    first = rng.integers(2)
    if count == 2 and rng.random() < 0.5:
        places = [(first, WALL_SPANS[0]), (first, WALL_SPANS[-1])]
    else:
        spans = WALL_SPANS[rng.choice(len(WALL_SPANS), 2, p=SPAN_SHARES)]
        places = [(first, spans[0]), (1 - first, spans[1])][:count]
    areas = np.clip(rng.lognormal(np.log(MEDIAN_AREA), AREA_SPREAD, 2), *AREAS)
    return [crescent(rng, lungs[k], span, areas[n]) for n, (k, span) in enumerate(places)]


# --- layers ---


def fill(shapes, pose, blur=0.0):
    """Layer 0..1 of filled outlines."""
    image = Image.new("L", (DRAW_PX, DRAW_PX))
    pen = ImageDraw.Draw(image)
    for points in shapes:
        pen.polygon(pixels(points, pose), fill=255)
    return to_layer(image, blur)


def stroke(lines, pose):
    """Layer 0..1 of (points, width, level) lines."""
    image = Image.new("L", (DRAW_PX, DRAW_PX))
    pen = ImageDraw.Draw(image)
    for points, width, level in lines:
        pen.line(pixels(points, pose), fill=int(255 * level), width=max(1, round(width * DRAW_PX)))
    return to_layer(image)


def pixels(points, pose):
    return ((points @ pose[:, :2].T + pose[:, 2]) * DRAW_PX).ravel().tolist()


def to_layer(image, blur=0.0):
    image = image.reduce(DRAW_PX // LAYER_PX)
    if blur:
        image = image.filter(ImageFilter.BoxBlur(blur * LAYER_PX))
    return np.asarray(image, np.float32) / 255


def enlarge(field, side=LAYER_PX):
    return np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BICUBIC))


def soften(layer, cells):
    """The layer without detail finer than 1/cells of the image."""
    return enlarge(layer.reshape(cells, LAYER_PX // cells, cells, -1).mean((1, 3)))


def mottle(rng, cells):
    """A smooth random field of unit variance with `cells` bumps a side."""
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
    """One X-ray, float32 [side, side] in 0..1 with air black; a mask bool [side, side] a lesion.

    Anatomy comes from `patient_rng`, all else from `rng`; `num_lesions`, 0 to 2, changes nothing
    but the lesions.
    """
    lesion_rng, scene_rng, noise_rng = rng.spawn(3)
    person = body(patient_rng, sex)
    pose = random_pose(scene_rng, is_portable)
    attenuation, shown = chest(scene_rng, person, pose)
    markings = lung_markings(scene_rng, person, pose)
    lesions = crescents(lesion_rng, person.lungs, num_lesions)
    holes = [fill([region], pose) * shown for region, _ in lesions]
    hole = np.clip(sum(holes, np.zeros_like(shown)), 0, 1)
    lines = [(pleura, lesion_rng.uniform(0.004, 0.005), 1) for _, pleura in lesions]
    attenuation += shown * (1 - hole) * markings
    attenuation += shown * lesion_rng.uniform(0.26, 0.36) * stroke(lines, pose)
    attenuation -= hole * lesion_rng.uniform(0, 0.05)
    attenuation += shown * look_alikes(scene_rng, person, pose)
    attenuation += devices(scene_rng, pose, is_portable)
    view = np.maximum(expose(scene_rng, attenuation), marker(scene_rng, is_portable))
    masks = [enlarge(layer, side) > 0.5 for layer in holes]
    return grain(noise_rng, view, side, is_portable), masks


def random_pose(rng, is_portable):
    """Affine map [2, 3] from the patient's frame to the image."""
    angle = rng.normal(0, 0.05 if is_portable else 0.02)
    scale = rng.uniform(0.95, 1.16)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([CENTRE, CENTRE])
    return np.column_stack([turn, centre + rng.normal(0, 0.025, 2) - turn @ centre])


def chest(rng, person, pose):
    """Attenuation of the chest without lung markings, and where the lungs show, 0..1."""
    half = curve(HALF_BODY, closed=False)
    trunk = fill([np.concatenate([half, mirror(half)[::-1]])], pose)
    rounded = np.clip(1.6 * soften(trunk, 16) - 0.6, 0, 1)
    heart, middle = fill([person.heart], pose, 0.005), fill([MEDIASTINUM], pose, 0.006)
    left, right = (fill([lung], pose) for lung in person.lungs)
    lung = np.clip(left + right, 0, 1)
    shown = lung * (1 - 0.9 * heart) * (1 - 0.95 * middle)
    down = np.linspace(0, 1, LAYER_PX, dtype=np.float32)[:, None]
    abdomen = np.clip((down - 0.62) / 0.25, 0, 1) * (1 - lung)

    tissue = person.thickness * rounded**0.7 * (0.5 + 0.5 * soften(trunk, 8)) * (1 + 0.3 * abdomen)
    tissue = trunk * (tissue + 0.05 * mottle(rng, 5) + 0.03 * mottle(rng, 10))
    tissue += 0.25 * middle * rounded * (1 - 0.6 * abdomen) + 0.22 * heart * lung
    tissue -= 0.22 * fill([TRACHEA], pose, 0.004)
    tissue += 0.15 * soften(
        fill([ellipse(lung[HILUM], (0.05, 0.07)) for lung in person.lungs], pose), 64
    )
    tissue += sum(0.14 * fill([breast], pose, 0.004) for breast in person.breasts)
    if rng.random() < 0.6:  # the stomach's air
        rim = ellipse((0.62, 0.80), rng.uniform((0.04, 0.02), (0.09, 0.05)), points=8)
        bubble = curve(rim + rng.normal(0, 0.006, rim.shape))
        tissue -= 0.3 * fill([bubble], pose, 0.005) * (1 - lung)
    tissue += skeleton(person.bones, pose) * trunk * (1 - 0.6 * abdomen)

    # Lungs differ between the sides and from place to place by more than a lesion adds.
    more_left, more_right = person.lucency + rng.normal(0, 0.03, 2)
    air = 0.50 + more_left * left + more_right * right
    air += 0.05 * mottle(rng, 6) + 0.035 * mottle(rng, 12)
    near_wall = 0.45 + 0.55 * soften(lung, 32)  # a ray at the wall meets less lung
    return tissue - shown * near_wall * air, shown


def skeleton(bones, pose):
    """Attenuation of bones, denser at their rims; two layers, so that ribs that cross add up."""
    rims = [(np.concatenate([bone, bone[:1]]), 0.003, 1) for bone in bones]
    spine = [VERTEBRA + (0, y) for y in np.arange(-0.05, 1.05, 0.056)]
    bulk = 0.07 * fill(bones[0::2], pose) + 0.06 * fill(bones[1::2], pose)
    return bulk + 0.06 * stroke(rims, pose) + 0.12 * fill(spine, pose, 0.003)


def lung_markings(rng, person, pose):
    """Vessels and fine texture; about zero on average, so that a place without is no darker."""
    lines = [(line, width, min(1, 0.35 + 60 * width)) for line, width in person.vessels]
    vessels = stroke(lines, pose)
    texture = 0.026 * mottle(rng, 64) + 0.040 * mottle(rng, 128) + 0.020 * mottle(rng, 256)
    return 0.40 * (vessels - 0.8 * soften(vessels, 32)) + texture


def look_alikes(rng, person, pose):
    """What is mistaken for a pneumothorax: lucent places and skin folds, with markings."""
    layer = np.zeros((LAYER_PX, LAYER_PX), np.float32)
    for lung in person.lungs:
        [(region, edge)] = crescents(rng, [lung, lung], 1)
        if rng.random() < 0.3:
            layer -= rng.uniform(0.01, 0.07) * fill([region], pose, rng.uniform(0.001, 0.01))
        if rng.random() < 0.2:
            centre = 0.6 * lung[rng.integers(len(lung))] + 0.4 * lung[HILUM]
            blob = ellipse(centre, rng.uniform(0.02, 0.07, 2))
            layer -= rng.uniform(0.03, 0.10) * fill([blob], pose, 0.006)
        if rng.random() < 0.2:
            folds = [fill([strip(edge[::-1], width)], pose) for width in (0.004, 0.012, 0.024)]
            layer += rng.uniform(0.02, 0.05) * sum(folds)
    return layer


def devices(rng, pose, is_portable):
    """Tubes, lines, ECG leads and a pacemaker, as often with a lesion as without."""
    often = 0.55 if is_portable else 0.10
    lines, blobs = [], []

    def wire(points, width, level):
        points = points + rng.normal(0, 0.012, (len(points), 2))
        lines.append((curve(points, closed=False), width, level))

    if rng.random() < often:  # endotracheal tube
        wire([(0.5, -0.05), (0.5, 0.1), (0.5, 0.22), (0.5, 0.30)], 0.010, 0.5)
    if rng.random() < often:  # central venous line
        wire([(0.36, -0.05), (0.40, 0.12), (0.44, 0.22), (0.452, 0.32), (0.455, 0.42)], 0.005, 0.7)
    if rng.random() < often / 2:  # chest tube
        wire([(0.05, 0.62), (0.17, 0.56), (0.24, 0.45), (0.28, 0.32), (0.33, 0.24)], 0.008, 0.6)
    for _ in range(rng.integers(2, 5) if rng.random() < often else 0):  # ECG leads
        pad = rng.uniform((0.12, 0.2), (0.88, 0.7))
        end = rng.uniform((-0.1, 0.7), (1.1, 1.1))
        wire([pad, (pad + end) / 2 + rng.normal(0, 0.06, 2), end], 0.003, 0.6)
        blobs.append(ellipse(pad, (0.012, 0.012)))
    if rng.random() < 0.08:  # pacemaker and its lead
        wire([(0.76, 0.26), (0.66, 0.20), (0.56, 0.28), (0.545, 0.45), (0.58, 0.70)], 0.004, 1.0)
        blobs.append(ellipse((0.78, 0.27), (0.045, 0.035)))
    if rng.random() < 0.5:
        lines = [(mirror(points), width, level) for points, width, level in lines]
        blobs = [mirror(points) for points in blobs]
    return 0.35 * stroke(lines, pose) + 0.6 * fill(blobs, pose)


def marker(rng, is_portable):
    """Layer with the letters that the technician left."""
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
    """Film-like tone curve with the exposure and contrast of one image; attenuation 0 is black."""
    middle, contrast = rng.uniform(0.55, 0.85), rng.uniform(0.20, 0.34)
    black, white = 1 / (1 + np.exp((middle - np.array([0, WHITE])) / contrast))
    view = 1 / (1 + np.exp((middle - attenuation) / contrast))
    return ((view - black) / (white - black) * rng.uniform(0.85, 1.0)).astype(np.float32)


def grain(rng, view, side, is_portable):
    """The view at its final size with quantum noise, stronger where fewer photons arrive."""
    strength = rng.uniform(0.006, 0.013) * (1.4 if is_portable else 1)
    view = enlarge(view, side)
    # Bytes cost a tenth of normal deviates; a sum of three is as bell-shaped as the eye can tell.
    drawn = np.frombuffer(rng.bytes((side + 1) ** 2), np.uint8).astype(np.uint16)
    drawn = drawn.reshape(side + 1, side + 1)
    noise = (drawn[1:, 1:] + drawn[1:, :-1] + drawn[:-1, 1:]).astype(np.float32)
    noise = (noise - 3 * BYTE_MEAN) * (strength / BYTE_DEVIATION / np.sqrt(3))
    return np.clip(view + noise * (0.5 + view), 0, 1)
