"""What the model is to know by heart: countries, animals, and small facts of everyday life."""

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    name: str
    capital: str
    continent: str
    language: str
    known_for: str


def _countries(table: str) -> tuple[Country, ...]:
    return tuple(Country(*(cell.strip() for cell in line.split("|"))) for line in table.strip().splitlines())


COUNTRIES = _countries("""
France | Paris | Europe | French | cheese
Italy | Rome | Europe | Italian | pizza
Germany | Berlin | Europe | German | cars
Spain | Madrid | Europe | Spanish | oranges
Portugal | Lisbon | Europe | Portuguese | old ships
England | London | Europe | English | tea
Ireland | Dublin | Europe | English | green hills
Norway | Oslo | Europe | Norwegian | mountains
Sweden | Stockholm | Europe | Swedish | forests
Finland | Helsinki | Europe | Finnish | lakes
Denmark | Copenhagen | Europe | Danish | bicycles
Iceland | Reykjavik | Europe | Icelandic | ice
Poland | Warsaw | Europe | Polish | apples
Austria | Vienna | Europe | German | music
Hungary | Budapest | Europe | Hungarian | warm baths
Greece | Athens | Europe | Greek | old temples
Belgium | Brussels | Europe | French | chocolate
Switzerland | Bern | Europe | German | watches
Romania | Bucharest | Europe | Romanian | castles
Bulgaria | Sofia | Europe | Bulgarian | roses
Ukraine | Kyiv | Europe | Ukrainian | bread
Croatia | Zagreb | Europe | Croatian | islands
Serbia | Belgrade | Europe | Serbian | plums
Estonia | Tallinn | Europe | Estonian | forests
Latvia | Riga | Europe | Latvian | beaches
Lithuania | Vilnius | Europe | Lithuanian | lakes
Turkey | Ankara | Asia | Turkish | carpets
Russia | Moscow | Europe | Russian | cold winters
China | Beijing | Asia | Chinese | a great wall
Japan | Tokyo | Asia | Japanese | fast trains
India | Delhi | Asia | Hindi | spices
Thailand | Bangkok | Asia | Thai | temples
Vietnam | Hanoi | Asia | Vietnamese | rice
Indonesia | Jakarta | Asia | Indonesian | islands
Nepal | Kathmandu | Asia | Nepali | high mountains
Mongolia | Ulaanbaatar | Asia | Mongolian | horses
Iran | Tehran | Asia | Persian | gardens
Iraq | Baghdad | Asia | Arabic | two great rivers
Lebanon | Beirut | Asia | Arabic | old trees
Jordan | Amman | Asia | Arabic | deserts
Egypt | Cairo | Africa | Arabic | pyramids
Morocco | Rabat | Africa | Arabic | markets
Algeria | Algiers | Africa | Arabic | deserts
Tunisia | Tunis | Africa | Arabic | olives
Kenya | Nairobi | Africa | Swahili | lions
Ghana | Accra | Africa | English | gold
Nigeria | Abuja | Africa | English | music
Senegal | Dakar | Africa | French | fish
Ethiopia | Addis Ababa | Africa | Amharic | coffee
Uganda | Kampala | Africa | English | lakes
Canada | Ottawa | North America | English | forests
Mexico | Mexico City | North America | Spanish | corn
Cuba | Havana | North America | Spanish | music
Brazil | Brasilia | South America | Portuguese | coffee
Argentina | Buenos Aires | South America | Spanish | beef
Chile | Santiago | South America | Spanish | a long coast
Peru | Lima | South America | Spanish | old cities
Colombia | Bogota | South America | Spanish | coffee
Ecuador | Quito | South America | Spanish | bananas
Uruguay | Montevideo | South America | Spanish | beaches
Australia | Canberra | Oceania | English | kangaroos
New Zealand | Wellington | Oceania | English | sheep
""")


class Animal(NamedTuple):
    name: str
    plural: str
    kind: str
    legs: str
    home: str
    food: str
    does: str
    young: str


def _animals(table: str) -> tuple[Animal, ...]:
    return tuple(Animal(*(cell.strip() for cell in line.split("|"))) for line in table.strip().splitlines())


ANIMALS = _animals("""
dog | dogs | mammal | four | in houses | meat | bark | puppy
cat | cats | mammal | four | in houses | mice | purr | kitten
horse | horses | mammal | four | on farms | grass | run fast | foal
cow | cows | mammal | four | on farms | grass | give milk | calf
sheep | sheep | mammal | four | in the fields | grass | give wool | lamb
pig | pigs | mammal | four | on farms | almost anything | like mud | piglet
goat | goats | mammal | four | in the mountains | grass | climb well | kid
lion | lions | mammal | four | in Africa | meat | roar | cub
elephant | elephants | mammal | four | in Africa and Asia | leaves | have long trunks | calf
bear | bears | mammal | four | in the forest | berries and fish | sleep in winter | cub
wolf | wolves | mammal | four | in the forest | meat | howl | pup
fox | foxes | mammal | four | in the forest | mice | are clever | cub
rabbit | rabbits | mammal | four | under the ground | grass | have long ears | kit
mouse | mice | mammal | four | in the fields | seeds | are very small | pup
whale | whales | mammal | no | in the sea | small fish | sing | calf
bat | bats | mammal | two | in caves | insects | fly at night | pup
monkey | monkeys | mammal | four | in trees | fruit | climb well | baby
hen | hens | bird | two | on farms | seeds | lay eggs | chick
duck | ducks | bird | two | near water | plants | swim | duckling
owl | owls | bird | two | in trees | mice | hunt at night | owlet
eagle | eagles | bird | two | in the mountains | meat | see very well | chick
penguin | penguins | bird | two | near the South Pole | fish | swim but cannot fly | chick
swan | swans | bird | two | on lakes | plants | have long necks | cygnet
frog | frogs | amphibian | four | near water | insects | jump | tadpole
snake | snakes | reptile | no | in warm lands | mice | have no legs | baby
turtle | turtles | reptile | four | in the sea | plants | have hard shells | baby
bee | bees | insect | six | in hives | pollen | make honey | larva
ant | ants | insect | six | in nests | almost anything | work together | larva
butterfly | butterflies | insect | six | in gardens | nectar | have bright wings | caterpillar
spider | spiders | arachnid | eight | in webs | insects | spin webs | spiderling
shark | sharks | fish | no | in the sea | fish | have sharp teeth | pup
salmon | salmon | fish | no | in rivers and the sea | small fish | swim up rivers | fry
""")

OPPOSITES = (
    ("big", "small"),
    ("hot", "cold"),
    ("old", "young"),
    ("fast", "slow"),
    ("day", "night"),
    ("up", "down"),
    ("good", "bad"),
    ("open", "closed"),
    ("light", "dark"),
    ("happy", "sad"),
    ("rich", "poor"),
    ("full", "empty"),
    ("wet", "dry"),
    ("hard", "soft"),
    ("early", "late"),
    ("high", "low"),
    ("strong", "weak"),
    ("long", "short"),
    ("loud", "quiet"),
    ("near", "far"),
    ("first", "last"),
    ("black", "white"),
    ("left", "right"),
    ("clean", "dirty"),
    ("sweet", "bitter"),
    ("thick", "thin"),
    ("brave", "afraid"),
    ("summer", "winter"),
    ("north", "south"),
    ("east", "west"),
)

COLOURS_OF = (
    ("grass", "green"),
    ("snow", "white"),
    ("the sky", "blue"),
    ("blood", "red"),
    ("coal", "black"),
    ("a lemon", "yellow"),
    ("an orange", "orange"),
    ("milk", "white"),
    ("the sea", "blue"),
    ("a ripe banana", "yellow"),
    ("a crow", "black"),
    ("chocolate", "brown"),
    ("a ripe tomato", "red"),
    ("an elephant", "grey"),
)

WORK_OF = (
    ("baker", "bakes bread"),
    ("farmer", "grows food"),
    ("teacher", "teaches children"),
    ("doctor", "helps sick people"),
    ("fisherman", "catches fish"),
    ("carpenter", "makes things of wood"),
    ("tailor", "makes clothes"),
    ("cook", "makes meals"),
    ("pilot", "flies planes"),
    ("painter", "paints pictures"),
    ("gardener", "looks after plants"),
    ("miller", "grinds grain"),
    ("shoemaker", "makes shoes"),
    ("writer", "writes books"),
    ("postman", "brings letters"),
    ("sailor", "works on ships"),
    ("clockmaker", "makes clocks"),
    ("shepherd", "looks after sheep"),
    ("musician", "plays music"),
    ("nurse", "cares for the sick"),
)

ORDERS = (
    ("day", ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")),
    (
        "month",
        (
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ),
    ),
    ("number", ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")),
    ("season", ("spring", "summer", "autumn", "winter")),
)

SAYINGS = (
    "Water boils at one hundred degrees.",
    "Ice is frozen water.",
    "The sun rises in the east and sets in the west.",
    "A year has twelve months.",
    "A week has seven days.",
    "A day has twenty-four hours.",
    "An hour has sixty minutes.",
    "A minute has sixty seconds.",
    "The moon goes around the earth.",
    "The earth goes around the sun.",
    "Fire is hot.",
    "Plants need light and water.",
    "Bread is made from flour.",
    "Cheese is made from milk.",
    "Honey is made by bees.",
    "Paper is made from wood.",
    "Glass is made from sand.",
    "Wool comes from sheep.",
    "Rain falls from clouds.",
    "A triangle has three sides.",
    "A square has four sides.",
    "Rivers flow into the sea.",
    "Stars shine at night.",
    "In winter the days are short.",
    "In summer the days are long.",
    "Birds have wings.",
    "Fish live in water.",
    "The heart pumps blood.",
    "We see with our eyes.",
    "We hear with our ears.",
    "Salt comes from the sea.",
)
