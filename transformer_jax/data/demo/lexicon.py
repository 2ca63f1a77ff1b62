"""The words of the built-in corpus as tables, and the tables read into `NOUNS`, `VERBS`, `ADJECTIVES` and `TIMES`.

Nouns give gender, nominative, genitive and plural (`-`: not used in the plural); a masculine noun whose genitive ends in -n
is weak (der Elefant, den/dem/des Elefanten). Verbs give the forms that no rule predicts. `+` parts a separable prefix.
Words that would make an English sentence ambiguous (sheep in the plural, "must not") are left out on purpose.
"""

from functools import cache
from typing import NamedTuple


class Noun(NamedTuple):
    en: str
    en_plural: str  # empty where the plural is not used
    gender: str  # m, f or n
    de: str
    genitive: str
    plural: str
    group: str


class Verb(NamedTuple):
    frame: str  # I intransitive, A accusative, D dative, G both, P with a preposition, M motion, L location, R reports
    subjects: str  # as `select` takes them, "animate" spelled out
    english: tuple[str, ...]  # base, past, participle
    german: tuple[str, ...]  # infinitive, third person singular, past, participle; all without the separable prefix
    prefix: str
    auxiliary: str  # haben or sein
    objects: str


NOUN_TABLE = {
    "person": """man m Mann Mannes Männer, teacher m Lehrer Lehrers Lehrer, boy m Junge Jungen Jungen,
        doctor m Arzt Arztes Ärzte, king m König Königs Könige, farmer m Bauer Bauern Bauern,
        student m Student Studenten Studenten, cook m Koch Kochs Köche, neighbor m Nachbar Nachbarn Nachbarn,
        prince m Prinz Prinzen Prinzen, uncle m Onkel Onkels Onkel, friend m Freund Freundes Freunde,
        painter m Maler Malers Maler, soldier m Soldat Soldaten Soldaten, brother m Bruder Bruders Brüder,
        woman f Frau Frau Frauen, mother f Mutter Mutter Mütter, queen f Königin Königin Königinnen,
        daughter f Tochter Tochter Töchter, aunt f Tante Tante Tanten, sister f Schwester Schwester Schwestern,
        lady f Dame Dame Damen, grandmother f Großmutter Großmutter Großmütter, child n Kind Kindes Kinder,
        girl n Mädchen Mädchens Mädchen, baby n Baby Babys Babys""",
    "animal": """dog m Hund Hundes Hunde, elephant m Elefant Elefanten Elefanten, bear m Bär Bären Bären,
        lion m Löwe Löwen Löwen, monkey m Affe Affen Affen, frog m Frosch Froschs Frösche, fox m Fuchs Fuchses Füchse,
        wolf m Wolf Wolfs Wölfe, donkey m Esel Esels Esel, tiger m Tiger Tigers Tiger, cat f Katze Katze Katzen,
        mouse f Maus Maus Mäuse, cow f Kuh Kuh Kühe, goat f Ziege Ziege Ziegen, snake f Schlange Schlange Schlangen,
        goose f Gans Gans Gänse, giraffe f Giraffe Giraffe Giraffen, duck f Ente Ente Enten, rat f Ratte Ratte Ratten,
        turtle f Schildkröte Schildkröte Schildkröten, horse n Pferd Pferdes Pferde, pig n Schwein Schweins Schweine,
        sheep n Schaf Schafs -, rabbit n Kaninchen Kaninchens Kaninchen, camel n Kamel Kamels Kamele,
        zebra n Zebra Zebras Zebras, crocodile n Krokodil Krokodils Krokodile, calf n Kalb Kalbs Kälber,
        pony n Pony Ponys Ponys, lamb n Lamm Lamms Lämmer""",
    "place": """forest m Wald Waldes Wälder, garden m Garten Gartens Gärten, park m Park Parks Parks,
        cellar m Keller Kellers Keller, stable m Stall Stalls Ställe, market m Markt Marktes Märkte,
        station m Bahnhof Bahnhofs Bahnhöfe, river m Fluss Flusses Flüsse, stream m Bach Bachs Bäche,
        square m Platz Platzes Plätze, path m Weg Weges Wege, ditch m Graben Grabens Gräben, mountain m Berg Berges Berge,
        hill m Hügel Hügels Hügel, tower m Turm Turms Türme, rock m Felsen Felsens Felsen, tree m Baum Baumes Bäume,
        street f Straße Straße Straßen, bridge f Brücke Brücke Brücken, meadow f Wiese Wiese Wiesen,
        gorge f Schlucht Schlucht Schluchten, puddle f Pfütze Pfütze Pfützen, cave f Höhle Höhle Höhlen,
        kitchen f Küche Küche Küchen, barn f Scheune Scheune Scheunen, city f Stadt Stadt Städte,
        school f Schule Schule Schulen, church f Kirche Kirche Kirchen, wall f Mauer Mauer Mauern, dune f Düne Düne Dünen,
        field n Feld Feldes Felder, moor n Moor Moors Moore, valley n Tal Tals Täler, sea n Meer Meeres Meere,
        house n Haus Hauses Häuser, room n Zimmer Zimmers Zimmer, tent n Zelt Zeltes Zelte, village n Dorf Dorfes Dörfer,
        roof n Dach Daches Dächer, scaffold n Gerüst Gerüsts Gerüste, castle n Schloss Schlosses Schlösser,
        museum n Museum Museums Museen""",
    "thing": """table m Tisch Tisches Tische, chair m Stuhl Stuhls Stühle, suitcase m Koffer Koffers Koffer,
        sack m Sack Sacks Säcke, basket m Korb Korbs Körbe, letter m Brief Briefes Briefe, ball m Ball Balls Bälle,
        key m Schlüssel Schlüssels Schlüssel, cart m Wagen Wagens Wagen, sledge m Schlitten Schlittens Schlitten,
        ring m Ring Rings Ringe, hat m Hut Hutes Hüte, coat m Mantel Mantels Mäntel, computer m Computer Computers Computer,
        box f Kiste Kiste Kisten, bag f Tasche Tasche Taschen, bench f Bank Bank Bänke, ladder f Leiter Leiter Leitern,
        lamp f Lampe Lampe Lampen, bottle f Flasche Flasche Flaschen, clock f Uhr Uhr Uhren,
        newspaper f Zeitung Zeitung Zeitungen, flower f Blume Blume Blumen, carriage f Kutsche Kutsche Kutschen,
        cup f Tasse Tasse Tassen, door f Tür Tür Türen, book n Buch Buches Bücher, barrel n Fass Fasses Fässer,
        bed n Bett Bettes Betten, parcel n Paket Pakets Pakete, picture n Bild Bildes Bilder, boat n Boot Bootes Boote,
        car n Auto Autos Autos, bicycle n Fahrrad Fahrrads Fahrräder, radio n Radio Radios Radios, glass n Glas Glases Gläser,
        knife n Messer Messers Messer, window n Fenster Fensters Fenster, sofa n Sofa Sofas Sofas""",
    "food": """apple m Apfel Apfels Äpfel, cake m Kuchen Kuchens Kuchen, cheese m Käse Käses -, fish m Fisch Fisches -,
        sausage f Wurst Wurst Würste, pear f Birne Birne Birnen, carrot f Karotte Karotte Karotten,
        potato f Kartoffel Kartoffel Kartoffeln, bread n Brot Brotes -, egg n Ei Eis Eier, meat n Fleisch Fleisches -""",
    "drink": """tea m Tee Tees -, juice m Saft Saftes -, coffee m Kaffee Kaffees -, milk f Milch Milch -,
        lemonade f Limonade Limonade -, water n Wasser Wassers -, beer n Bier Bieres -""",
    "event": """lesson m Unterricht Unterrichts -, film m Film Films -, party f Feier Feier -, journey f Reise Reise -,
        break f Pause Pause -, concert n Konzert Konzerts -, meal n Essen Essens -""",
    "cause": """rain m Regen Regens -, storm m Sturm Sturms -, noise m Lärm Lärms -, snow m Schnee Schnees -,
        heat f Hitze Hitze -, cold f Kälte Kälte -, weather n Wetter Wetters -""",
    "part": """head m Kopf Kopfes -, tail m Schwanz Schwanzes -, nose f Nase Nase -, ear n Ohr Ohres -, eye n Auge Auges -""",
}  # fmt: skip
IRREGULAR_S = {"man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese", "wolf": "wolves",
                     "calf": "calves", "knife": "knives", "potato": "potatoes", "go": "goes"}  # fmt: skip
NAMES = ("Anna", "Peter", "Maria", "Paul", "Lena", "Karl")

# English, German, and the stem before an ending where it is another (dunkel: ein dunkler Wald).
ADJECTIVE_TABLE = """old alt, young jung, big groß, small klein, happy glücklich, friendly freundlich, tired müde müd,
    clever klug, rich reich, poor arm, famous berühmt, ill krank, brown braun, black schwarz, white weiß, gray grau, hungry
    hungrig, thirsty durstig, lazy faul, fat dick, wild wild, beautiful schön, quiet ruhig, dark dunkel dunkl, new neu,
    heavy schwer, expensive teuer teur, cheap billig, red rot, blue blau, green grün, fresh frisch, hot heiß,
    cold kalt, dry trocken, long lang, short kurz, terrible schrecklich, weak schwach, afraid ängstlich, slow langsam,
    nervous nervös, curious neugierig, restless unruhig, wide breit, deep tief, high hoch hoh,
    steep steil, full voll, full/satt satt, narrow eng,
    empty leer, dirty schmutzig"""
ADJECTIVES = {row.split()[0]: tuple(row.split()[1:]) for row in ADJECTIVE_TABLE.split(",")}
# Which adjectives go with which nouns; `predicative` ones are also said of a noun after "is" or "was".
ATTRIBUTES = {
    "person": "old young small happy friendly tired clever rich poor famous ill hungry thirsty",
    "animal": "old young big small brown black white gray hungry lazy fat wild clever tired",
    "place": "old big small beautiful famous",
    "thing": "old new heavy expensive cheap red blue green beautiful dirty small",
    "food": "fresh cold expensive cheap old",
    "drink": "hot cold fresh",
    "event": "long short beautiful",
    "cause": "terrible",
    "part": "big small dirty",
}
PREDICATIVES = {
    "person": "old young happy friendly tired clever rich poor famous ill hungry thirsty curious",
    "animal": "old young big small hungry thirsty lazy fat wild clever tired slow afraid",
    "place": "old big small beautiful famous quiet dark",
    "thing": "old new heavy expensive cheap beautiful dirty",
}

# frame | subjects | English base, past, participle | German infinitive, er-form, past, participle (sein) | objects
VERB_TABLE = """
I | person | laugh laughed laughed | lachen lacht lachte gelacht |
I | person | cry cried cried | weinen weint weinte geweint |
I | person | sing sang sung | singen singt sang gesungen |
I | person | dance danced danced | tanzen tanzt tanzte getanzt |
I | person | work worked worked | arbeiten arbeitet arbeitete gearbeitet |
I | animate | sleep slept slept | schlafen schläft schlief geschlafen |
I | animate | wait waited waited | warten wartet wartete gewartet |
I | animate | get_up got_up gotten_up | auf+stehen steht stand gestanden sein |
I | animate | fall_asleep fell_asleep fallen_asleep | ein+schlafen schläft schlief geschlafen sein |
I | animate | wake_up woke_up woken_up | auf+wachen wacht wachte gewacht sein |
I | animate | run_away ran_away run_away | weg+laufen läuft lief gelaufen sein |
I | animate | come_back came_back come_back | zurück+kommen kommt kam gekommen sein |
I | person | arrive arrived arrived | an+kommen kommt kam gekommen sein |
I | person | give_up gave_up given_up | auf+geben gibt gab gegeben |
A | animate | see saw seen | sehen sieht sah gesehen | animate thing place part part part part
A | animate | hear heard heard | hören hört hörte gehört | animate
A | animate | find found found | finden findet fand gefunden | animal thing food
A | animate | look_for looked_for looked_for | suchen sucht suchte gesucht | animate thing
A | person | love loved loved | lieben liebt liebte geliebt | animate city village sea
A | person | visit visited visited | besuchen besucht besuchte besucht | person castle museum city village
A | person | meet met met | treffen trifft traf getroffen | person
A | person | buy bought bought | kaufen kauft kaufte gekauft | thing food animal
A | person | sell sold sold | verkaufen verkauft verkaufte verkauft | thing food animal
A | person | wash washed washed | waschen wäscht wusch gewaschen | animal car carriage bottle cup glass coat
A | person | draw drew drawn | zeichnen zeichnet zeichnete gezeichnet | animate castle tree bridge part part part part
A | person | read read read | lesen liest las gelesen | book letter newspaper
A | person | write wrote written | schreiben schreibt schrieb geschrieben | book letter
A | person | repair repaired repaired | reparieren repariert reparierte repariert | car bicycle clock radio lamp roof carriage
A | person | open opened opened | öffnen öffnet öffnete geöffnet | door window suitcase box bag parcel letter bottle
A | person | close closed closed | schließen schließt schloss geschlossen | door window suitcase box bag book
A | person | eat ate eaten | essen isst aß gegessen | food
A | animal | eat ate eaten | fressen frisst fraß gefressen | food
A | animate | drink drank drunk | trinken trinkt trank getrunken | drink
A | person | feed fed fed | füttern füttert fütterte gefüttert | animal
A | person | steal stole stolen | stehlen stiehlt stahl gestohlen | ring clock car bicycle picture bag food
A | person | lose lost lost | verlieren verliert verlor verloren | key ring hat bag letter ball knife
A | person | forget forgot forgotten | vergessen vergisst vergaß vergessen | key hat bag book coat suitcase cup
A | animal | bite bit bitten | beißen beißt biss gebissen | animate
A | animal | chase chased chased | jagen jagt jagte gejagt | animal
A | person | carry carried carried | tragen trägt trug getragen | suitcase sack basket box bag bench ladder barrel parcel
A | strong | pull pulled pulled | ziehen zieht zog gezogen | cart sledge carriage box boat car barrel
A | animate | cross crossed crossed | überqueren überquert überquerte überquert | street bridge square river field meadow moor
A | animate | enter entered entered | betreten betritt betrat betreten | house room barn cave kitchen stable tent castle cellar
A | animate | leave left left | verlassen verlässt verließ verlassen | house room barn cave stable tent village forest garden
A | animate | climb climbed climbed | erklimmen erklimmt erklomm erklommen | mountain hill rock wall dune roof tower scaffold
A | animate | look_at looked_at looked_at | an+sehen sieht sah gesehen | animate thing part part part part
A | person | touch touched touched | berühren berührt berührte berührt | thing animal part part part part part part
A | person | invite invited invited | ein+laden lädt lud geladen | person
A | person | call called called | an+rufen ruft rief gerufen | person
A | person | bring_along brought_along brought_along | mit+bringen bringt brachte gebracht | thing food
A | person | pick_up picked_up picked_up | auf+heben hebt hob gehoben | key ring ball hat flower coat letter bottle bag
A | person | throw_away threw_away thrown_away | weg+werfen wirft warf geworfen | letter newspaper hat lamp bottle flower food
A | person | turn_on turned_on turned_on | ein+schalten schaltet schaltete geschaltet | lamp radio computer
A | person | turn_off turned_off turned_off | aus+schalten schaltet schaltete geschaltet | lamp radio computer
D | person | help helped helped | helfen hilft half geholfen | animate
D | animate | follow followed followed | folgen folgt folgte gefolgt sein | animate
D | person | thank thanked thanked | danken dankt dankte gedankt | person
D | animate | trust trusted trusted | vertrauen vertraut vertraute vertraut | person
D | person | answer answered answered | antworten antwortet antwortete geantwortet | person
D | person | listen_to listened_to listened_to | zu+hören hört hörte gehört | person
G | person | give gave given | geben gibt gab gegeben | thing food
G | person | show showed shown | zeigen zeigt zeigte gezeigt | thing animal
G | person | send sent sent | schicken schickt schickte geschickt | letter book parcel picture flower newspaper
G | person | bring brought brought | bringen bringt brachte gebracht | letter book parcel newspaper chair bottle cup glass food
G | person | lend lent lent | leihen leiht lieh geliehen | book car bicycle coat ladder knife radio boat
G | person | offer offered offered | an+bieten bietet bot geboten | food chair bed car boat
P | animate | wait_for waited_for waited_for | warten wartet wartete gewartet | auf acc animate
P | person | think_of thought_of thought_of | denken denkt dachte gedacht | an acc animate city sea
P | person | talk_to talked_to talked_to | sprechen spricht sprach gesprochen | mit dat person
P | animate | play_with played_with played_with | spielen spielt spielte gespielt | mit dat animal ball child boy girl
P | person | dream_of dreamed_of dreamed_of | träumen träumt träumte geträumt | von dat animate sea house car
M | animate | run ran run | laufen läuft lief gelaufen sein | into to through out_of across around
M | person | go went gone | gehen geht ging gegangen sein | into to through across
M | animate | jump jumped jumped | springen springt sprang gesprungen sein | into over out_of
M | animate | come came come | kommen kommt kam gekommen sein | out_of
M | person | drive drove driven | fahren fährt fuhr gefahren sein | to through across
L | animate | sit sat sat | sitzen sitzt saß gesessen |
L | animate | stand stood stood | stehen steht stand gestanden |
L | animate | lie lay lain | liegen liegt lag gelegen |
L | animate | play played played | spielen spielt spielte gespielt |
R | person | say said said | sagen sagt sagte gesagt | that dass
R | person | know knew known | wissen weiß wusste gewusst | that dass
R | person | believe believed believed | glauben glaubt glaubte geglaubt | that dass
R | person | hope hoped hoped | hoffen hofft hoffte gehofft | that dass
R | person | ask asked asked | fragen fragt fragte gefragt | whether ob
L | book letter key newspaper ball hat knife ring coat | lie lay lain | liegen liegt lag gelegen |
"""
# English preposition: German preposition, case, the nouns that go with it.
PLACES = {
    "in": ("in", "dat", "garden forest park cellar stable kitchen barn cave city school church house room tent village castle"),
    "on": ("auf", "dat", "table chair bench sofa bed roof bridge meadow field square wall"),
    "under": ("unter", "dat", "table tree bench bed bridge"),
    "behind": ("hinter", "dat", "house church barn tree door wall castle school"),
    "in front of": ("vor", "dat", "house church school door station museum stable window"),
    "next to": ("neben", "dat", "house tree table bench bed river door path"),
}
DIRECTIONS = {
    "into": ("in", "acc", "garden forest park cellar stable kitchen barn cave house room tent river"),
    "to": ("zu", "dat", "school church station market river house castle village museum"),
    "through": ("durch", "acc", "forest park garden city village valley"),
    "out of": ("aus", "dat", "house forest cave garden barn kitchen cellar tent stable"),
    "across": ("über", "acc", "bridge meadow field hill square street"),
    "over": ("über", "acc", "wall ditch puddle stream bench"),
    "around": ("um", "acc", "house tree table church castle tower"),
}
CIRCUMSTANCES = {
    "because of": ("wegen", "gen", "cause"),
    "despite": ("trotz", "gen", "cause"),
    "during": ("während", "gen", "event"),
}
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins", ("zu", "dem"): "zum", ("zu", "der"): "zur", ("von", "dem"): "vom"}
# English = German, linked by number; time of the verb; may it stand at the end of the English clause and in a negated one?
TIMES_TABLE = """
yesterday/1 = gestern/1 | past | end
last/1 week/2 = letzte/1 Woche/2 | past | end
in/1 the/1 evening/2 = am/1 Abend/2 | past | end
on/1 Monday/2 = am/1 Montag/2 | past | end
suddenly/1 = plötzlich/1 | past | front
then/1 = dann/1 | past | front
today/1 = heute/1 | present | end
now/1 = jetzt/1 | present | end
at/1 night/1 = nachts/1 | present | end
every/1 day/2 = jeden/1 Tag/2 | present | front
often/1 = oft/1 | present | front
sometimes/1 = manchmal/1 | present | front
"""
# What "my", "our" and "Anna's" go with.
OWNED_TABLE = """animal thing food teacher doctor neighbor uncle friend brother mother daughter aunt sister grandmother child
    baby cook house room garden tent barn stable kitchen cellar school village city cave lesson party journey
    milk juice tea coffee beer"""
STRONG = "dog elephant bear donkey cow goat giraffe horse pony camel zebra"


def rows(table: str) -> list[list[str]]:
    """The lines of a table, cut into columns at the bars."""
    return [[column.strip() for column in line.split("|")] for line in table.strip().splitlines()]


def with_s(english: str) -> str:
    """The plural of an English noun; the third person of a verb."""
    if english in IRREGULAR_S:
        return IRREGULAR_S[english]
    if english.endswith("y") and english[-2] not in "aeiou":
        return english[:-1] + "ies"
    return english + ("es" if english.endswith(("s", "x", "ch", "sh")) else "s")


def _nouns() -> dict[str, Noun]:
    entries = [(group, *entry.split()) for group, table in NOUN_TABLE.items() for entry in table.split(",")]
    return {
        en: Noun(en, "" if plural == "-" else with_s(en), gender, de, genitive, plural, group)
        for group, en, gender, de, genitive, plural in entries
    }


def _verbs() -> list[Verb]:
    verbs = []
    for frame, subjects, english, german, objects in rows(VERB_TABLE):
        infinitive, er_form, past, participle, *auxiliary = german.split()
        prefix, _, infinitive = infinitive.rpartition("+")
        forms = (infinitive, er_form, past, participle)
        subjects = subjects.replace("animate", "person animal")
        base = tuple(form.replace("_", " ") for form in english.split())
        verbs.append(Verb(frame, subjects, base, forms, prefix, (*auxiliary, "haben")[0], objects))
    return verbs


NOUNS = _nouns()
VERBS = _verbs()
TIMES = rows(TIMES_TABLE)


@cache
def select(spec: str) -> tuple[Noun, ...]:
    """The nouns that a specification names: groups ("animal"), "animate", "strong" (animals that pull), words.

    >>> [noun.de for noun in select("drink ball")][-2:]
    ['Bier', 'Ball']
    """
    words = spec.replace("strong", STRONG).replace("animate", "person animal").split()
    return tuple(noun for word in words for noun in NOUNS.values() if word in (noun.en, noun.group))
