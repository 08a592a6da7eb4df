"""The words for parts of the body: what a header says -> terms of PS3.16 annex L, no other word.

In: a text of people or devices, or a code. Out: a part, or several where it names several.
"""

import re
import unicodedata

from lake.exam import INNER_PARTS, OTHER, WHOLE_BODY

PARTS = frozenset(
    (
        *(*INNER_PARTS, *(part for parts in INNER_PARTS.values() for part in parts), WHOLE_BODY),
        *("BACK", "BREAST", "BUTTOCK", "PENIS", "SCROTUM", "TESTIS", "SUBMANDIBULAR", "URETHRA"),
        "VULVA",
    )
)
SYNONYMS = {
    "CHEST": "THORAX TORAX THX CXR LUNG PULMONARY PULMO",
    "ABDOMEN": "ABD ABDO ABDOM ABDOMINAL BELLY KUB",
    "PELVIS": "PELV PEL PELVIC",
    "HEAD": "CAPUT CRANIAL",
    "SKULL": "CRANIUM",
    "BRAIN": "CEREBRUM CEREBRAL NEURO",
    "SINUS": "PARANASALSINUS SINUSES",
    "FACE": "FACIALBONES FACIAL",
    "JAW": "MANDIBLE TOOTH TEETH DENTAL JAWREGION",
    "EYE": "EYELID CORNEA SCLERA OCULAR",
    "TMJ": "TMJOINT TEMPOROMANDIBULARJOINT",
    "NECK": "CERVICAL",
    "HEART": "CARDIAC CORONARY",
    "LIVER": "HEPATIC",
    "KIDNEY": "RENAL",
    "STOMACH": "GASTRIC",
    "COLON": "LARGEINTESTINE BOWEL",
    "BREAST": "MAMMA MAMMO MAMMOGRAPHY MAMMARY",
    "SPINE": "VERTEBRA VERTEBRAE WHOLESPINE ENTIRESPINE SPINAL",
    "CSPINE": "CERVICALSPINE CERVSPINE",
    "TSPINE": "THORACICSPINE DORSALSPINE DSPINE",
    "LSPINE": "LUMBARSPINE LUMBAR",
    "SSPINE": "SACRUM SACRALSPINE SACRAL",
    "UPPERLIMB": "UPPEREXTREMITY UPEXM",
    "LOWERLIMB": "LOWEREXTREMITY LOEXM",
    "EXTREMITY": "EXTREMITIES LIMB",
    "SHOULDER": "ACJOINT SCJOINT ACROMIOCLAVICULARJOINT",
    "ARM": "UPPERARM",
    "FOREARM": "LOWERARM",
    "HAND": "HANDS",
    "HIP": "HIPJOINT",
    "LEG": "LOWERLEG",
    "CALCANEUS": "HEEL",
    "FOOT": "FEET",
    "WHOLEBODY": "ENTIREBODY WBODY FULLBODY",
}
# Terms for several parts at once, with those of CS's 16 characters that are cut short.
SEVERAL = {
    "CHEST ABDOMEN": "CHESTABDOMEN CHESTABD",
    "CHEST ABDOMEN PELVIS": "CHESTABDPELVIS CHESTABDOMENPELVIS CAP TRUNK TORSO",
    "ABDOMEN PELVIS": "ABDOMENPELVIS ABDPELVIS ABDPEL",
    "HEAD NECK": "HEADNECK",
    "NECK CHEST": "NECKCHEST",
    "NECK CHEST ABDOMEN": "NECKCHESTABDOMEN",
    "NECK CHEST ABDOMEN PELVIS": "NECKCHESTABDPELV NECKCHESTABDPEL NECKCHESTABDPELVIS",
    "CSPINE TSPINE": "CTSPINE CERVICOTHORACICSPINE",
    "TSPINE LSPINE": "TLSPINE THORACOLUMBARSPINE",
    "LSPINE SSPINE": "LSSPINE LUMBOSACRALSPINE",
    "TIBIA FIBULA": "TIBIAFIBULA TIBFIB",
    "RADIUS ULNA": "RADIUSULNA",
}
LONGEST = 3  # words that are one together, such as LOWER EXTREMITY
# Codes of SNOMED CT and of its earlier form (SRT) of what CID 4031 and annex L call a region.
CODES = {
    "CHEST": "816094009 51185008 43799004 T-D3000 39607008 T-28000 86598002 T-280A0",
    "ABDOMEN": "818981001 113345001 T-D4000",
    "PELVIS": "816092008 12921003 T-D6000",
    "ABDOMEN PELVIS": "818982008 416949008 R-FAB57",
    "CHEST ABDOMEN": "416550000 R-FAB55",
    "CHEST ABDOMEN PELVIS": "416775004 R-FAB56",
    "NECK CHEST": "417437006 R-FAB52",
    "NECK CHEST ABDOMEN": "416152001 R-FAB53",
    "NECK CHEST ABDOMEN PELVIS": "416319003 R-FAB54",
    "HEAD NECK": "774007 T-D1000",
    "HEAD": "69536005 T-D1100",
    "NECK": "45048000 T-D1600",
    "SKULL": "89546000 T-11100",
    "BRAIN": "12738006 T-A0100",
    "FACE": "91397008 T-11196",
    "JAW": "661005 T-D1213 91609006 T-11180",
    "EYE": "81745001 T-AA000 371398005 T-D0801",
    "HEART": "80891009 T-32000",
    "RIB": "113197003 T-11300",
    "STERNUM": "56873002 T-11210",
    "MEDIASTINUM": "72410000 T-D3300",
    "BREAST": "76752008 T-04000",
    "LIVER": "10200004 T-62000",
    "KIDNEY": "64033007 T-71000",
    "BLADDER": "89837001 T-74000",
    "PROSTATE": "41216001 T-92000",
    "SPINE": "421060004 T-D04FF",
    "CSPINE": "122494005 T-11501",
    "TSPINE": "122495006 T-11502",
    "LSPINE": "122496007 T-11503",
    "SHOULDER": "16982005 T-D2220 85856004 T-15420",
    "CLAVICLE": "51299004 T-12310",
    "SCAPULA": "79601000 T-12280",
    "UPPERLIMB": "53120007 T-D8000",
    "ARM": "40983000 T-D8200",
    "HUMERUS": "85050009 T-12410",
    "ELBOW": "16953009 T-15430",
    "FOREARM": "14975008 T-D8500",
    "WRIST": "74670003 T-15460",
    "HAND": "85562004 T-D8700",
    "FINGER": "7569003 T-D8800",
    "THUMB": "76505004 T-D8810",
    "LOWERLIMB": "61685007 T-D9000",
    "HIP": "29836001 T-D2500 24136001 T-15710",
    "THIGH": "68367000 T-D9100",
    "FEMUR": "71341001 T-12710",
    "KNEE": "72696002 T-D9200",
    "LEG": "30021000 T-D9400",
    "ANKLE": "70258002 T-15750",
    "FOOT": "56459004 T-D9700",
    "CALCANEUS": "80144004 T-12770",
    "TOE": "29707007 T-D9800",
    "EXTREMITY": "66019005 T-D0300",
    "WHOLEBODY": "38266002 T-D0010",
}


def _by_word(table: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return {word: parts} of {parts: words}."""
    return {word: tuple(parts.split()) for parts, words in table.items() for word in words.split()}


PARTS_OF_WORD = {part: (part,) for part in PARTS} | _by_word(SYNONYMS) | _by_word(SEVERAL)
PARTS_OF_CODE = _by_word(CODES)


def parts_of(value: str) -> tuple[str, ...]:
    """Return the parts of the body that a text names, (OTHER,) where it names none that is known;
    () of an empty one."""
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().upper()
    words, parts, position = re.findall("[A-Z]+", plain), set(), 0
    while position < len(words):
        for count in range(LONGEST, 0, -1):
            word = "".join(words[position : position + count])
            if match := PARTS_OF_WORD.get(word) or PARTS_OF_WORD.get(word.removesuffix("S")):
                parts.update(match)
                break
        position += count
    if parts:
        return tuple(sorted(parts))
    return (OTHER,) if value.strip() else ()
