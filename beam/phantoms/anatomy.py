"""Makes the geometry of phantom patients: lungs, bones, vessels, outlines of pneumothoraces.

Lengths are fractions of the image's side, points are (x, y) with y down, image left is the
patient's right.
"""

from typing import NamedTuple

import numpy as np

CENTRE, APEX_Y = 0.5, 0.16

# fmt: off
# The lung at image left, from its medial apex over the apex and down the wall, along the diaphragm
# and up the heart.
LUNG = np.array([(0.430, 0.210), (0.378, 0.158), (0.305, 0.175), (0.238, 0.265), (0.192, 0.420),
                 (0.166, 0.580), (0.155, 0.725), (0.160, 0.785), (0.200, 0.745), (0.285, 0.695),
                 (0.370, 0.700), (0.430, 0.750), (0.445, 0.660), (0.448, 0.520), (0.446, 0.360)])
CURVE_STEPS = 12  # points of a curve per point of an outline
WALL_POINTS = 8  # so many first points of LUNG lie on the chest wall
HILUM = int(13.5 * CURVE_STEPS)  # the point of the curve where the vessels enter
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
    """Describes one patient; it is the same in all images of that patient."""

    lungs: list  # two outlines [N, 2], image left first
    heart: np.ndarray  # [N, 2]
    vessels: list  # of (two points [2, 2], width)
    bones: list  # outlines [N, 2]
    breasts: list  # outlines [N, 2]; empty where none show
    thickness: float
    lucency: np.ndarray  # [2]: additional air of either lung


def curve(points, closed=True):
    """Return a smooth line through points (Catmull-Rom), CURVE_STEPS points for each."""
    padded = np.pad(points, ((1, 2), (0, 0)), "wrap" if closed else "edge")
    a, b, c, d = (padded[k : len(padded) - 3 + k, None] for k in range(4))  # [N, 1, 2] each
    u = np.linspace(0, 1, CURVE_STEPS, endpoint=False)[None, :, None]
    line = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    return line.reshape(-1, 2) if closed else line.reshape(-1, 2)[: 1 - CURVE_STEPS]


def mirror(points):
    """Return points [N, 2] mirrored at the vertical line through the centre."""
    return np.stack([2 * CENTRE - points[:, 0], points[:, 1]], axis=1)


def strip(line, width):
    """Return the outline of a band of `width` about a line [N, 2]."""
    tangent = np.gradient(line, axis=0)
    normal = tangent[:, ::-1] * (-width / 2, width / 2) / np.hypot(*tangent.T)[:, None]
    return np.concatenate([line + normal, (line - normal)[::-1]])


def ellipse(centre, radii, points=32):
    """Return the outline [points, 2] of an ellipse."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii + centre


# --- geometry of a patient ---


def body(rng, sex):
    """Return the anatomy of a patient, from the patient's random generator."""
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
    """Return outlines of the posterior and anterior ribs over a lung at image left."""
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
    """Return (two points, width) of vessels from the hilum to random places of a lung.

    The nodes are sorted by their distance from the hilum, and each takes the cheapest nearer node
    as its parent. Going back from the farthest node, `num_tips` counts the tips behind each node,
    from which the widths follow.
    """
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
    num_tips = np.ones(len(nodes))  # number of tips that a node supplies with blood
    for child in range(len(nodes) - 1, 0, -1):
        num_tips[parent[child]] += num_tips[child]
    straighten(nodes, parent, num_tips)
    # Murray's law: the cube of the width is shared among the branches.
    widths = np.minimum(0.0022 * np.cbrt(num_tips), 0.009)
    return [(nodes[[parent[k], k]] + hilum, widths[k]) for k in range(1, len(nodes))]


def straighten(nodes, parent, num_tips, rounds=3):
    """Move branching points [N, 2] in place, towards the line from their parent to the mean of
    their children, weighted by the tips behind each."""
    branches = num_tips > 1
    for _ in range(rounds):
        onward = np.zeros_like(nodes)
        np.add.at(onward, parent[1:], nodes[1:] * num_tips[1:, None])
        onward = onward[branches] / (num_tips[branches, None] - 1)
        nodes[branches] = 0.5 * nodes[branches] + 0.25 * (nodes[parent[branches]] + onward)


# --- lesions, and what looks like one ---


def crescent(rng, lung, span, area):
    """Return a region [N, 2] of about `area` between the chest wall and the displaced pleura, and
    that pleura."""
    start, end = np.clip(span + rng.normal(0, 0.2, 2), 0, WALL_POINTS - 1) * CURVE_STEPS
    wall = lung[int(start) : int(end)]
    u = np.linspace(0, 1, len(wall))
    ripple = 1 + 0.12 * np.sin(2 * np.pi * (rng.uniform(1, 2.5) * u + rng.random()))
    bulge = np.sin(np.pi * u ** rng.uniform(0.8, 1.6)) ** rng.uniform(0.5, 1.0)
    shallow, deep = 0.0, min(0.7, 0.13 * (end - start) / CURVE_STEPS)  # a short span stays shallow
    for _ in range(12):  # area grows with depth
        depth = (shallow + deep) / 2
        # The lung collapses towards its hilum, so the pleura cannot cross itself.
        pleura = wall + (depth * bulge * ripple)[:, None] * (lung[HILUM] - wall)
        region = np.concatenate([wall, pleura[::-1]])
        shallow, deep = (depth, deep) if polygon_area(region) < area else (shallow, depth)
    # The pleura is invisible where it touches the wall.
    gap = np.hypot(*(pleura - wall).T)
    return region, pleura[gap > min(0.004, gap.max() / 2)]


def polygon_area(points):
    """Return the area of a polygon [N, 2]."""
    x, y = points.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def crescents(rng, lungs, count):
    """Return 0 to 2 crescents that do not touch: in one lung, in both, or at the two ends of
    one."""
    side = rng.integers(2)
    if count == 2 and rng.random() < 0.5:
        places = [(side, WALL_SPANS[0]), (side, WALL_SPANS[-1])]
    else:
        spans = WALL_SPANS[rng.choice(len(WALL_SPANS), 2, p=SPAN_SHARES)]
        places = [(side, spans[0]), (1 - side, spans[1])][:count]
    areas = np.clip(rng.lognormal(np.log(MEDIAN_AREA), AREA_SPREAD, 2), *AREAS)
    return [crescent(rng, lungs[k], span, areas[n]) for n, (k, span) in enumerate(places)]
