// What the page says, in its languages. A value may be a function of what it tells.
// No line breaks before a %. Percentages are rounded down, so that an answer just below the threshold is not shown as
// one that reaches it.

const floor = (probability) => Math.floor(probability * 100 + 1e-4);

const en = {
  language: "English",
  title: "Which plant is this?",
  subtitle: "Take or choose a photo of a plant and get its name. The photo stays on your device.",
  photo: "Photo",
  photoChosen: "The photo you chose",
  invitation: "Show one plant, close up and in focus",
  choose: "Choose a photo",
  another: "Choose another photo",
  camera: "Take a photo",
  hint: "or drop one anywhere on this page, or paste it",
  hintTouch: "JPEG, PNG or WebP, of any size",
  region: "Where did it grow?",
  regionHint: "Where it grew wild makes some species likelier than others.",
  garden: "In a garden, or I don't know",
  answer: "Answer",
  loading: "Loading the model…",
  loadingOf: (percent) => `Loading the model, ${percent}\u00a0%`,
  ready: "Ready.",
  working: "Looking at the photo…",
  waiting: [
    "The five likeliest species appear here, each with how sure the answer is.",
    "Where the photo does not tell enough, it says so instead of guessing.",
  ],
  notConclusive: "Not conclusive",
  offList: "This does not look like one of the plants of this list",
  offListHint: "It may be no plant at all, or one that this page does not know.",
  sure: (percent) => `${percent} sure`,
  percent: (p) => (p > 0.99 ? "over 99\u00a0%" : p < 0.01 ? "under 1\u00a0%" : `${floor(p)}\u00a0%`),
  doubt: (name, percent) => ["It might be ", { latin: name }, `, but ${percent} is too little to go by.`],
  candidate: (name, percent) => ["The likeliest is ", { latin: name }, ` (${percent}).`],
  promise: (share) => `Conclusive answers are right in at least ${floor(share)}\u00a0% of cases.`,
  taxonVerdict: (taxon) => `A species of ${taxon}`,
  taxon: (rank, taxon, percent, name) => [
    `The ${rank} is `, { latin: taxon }, ` (${percent} sure); the species is not conclusive. Likeliest: `, { latin: name }, ".",
  ],
  next: "What helps",
  tips: [
    "One plant, filling the picture, and nothing else in focus.",
    "A flower from the front; leaves or fruit where there is no flower.",
    "Daylight, no flash, a steady hand.",
  ],
  species: "Likeliest species",
  legend: (percent) => `Below ${percent} a species is not conclusive.`,
  noThreshold: "No species counts as conclusive: it could not be shown that this model is right often enough.",
  took: (ms, backend) => `Answered in ${ms} ms on this device (${backend}).`,
  count: (n) => `${n.toLocaleString("en")} species.`,
  proof: (n, browser, backend) =>
    `Checked against the Python model on ${n.toLocaleString("en")} photos in ${browser} on ${backend}`,
  sameAnswers: ": same answers.",
  otherBrowser: (name) => `; not in this browser (${name}).`,
  otherBackend: (name) => `; not on ${name}, which is used here.`,
  privacy: "Runs in your browser with TensorFlow.js; nothing is sent anywhere.",
  offline: "Works offline from now on.",
  licences: "Licences",
  attribution: "Whose photos it learnt from",
  retry: "Try again",
  notLoaded: (why) => `The model could not be loaded: ${why}.`,
  notRead: (file, why) => `“${file}”: ${why}.`,
  noPhotoPasted: "What you pasted holds no photo.",
  answered: (verdict, percent) => `${verdict}, ${percent} sure.`,
  script: "This page needs JavaScript: the plant is recognised on your own device.",
};

const es = {
  language: "Español",
  title: "¿Qué planta es?",
  subtitle: "Haz o elige una foto de una planta y sabrás su nombre. La foto no sale de tu dispositivo.",
  photo: "Foto",
  photoChosen: "La foto que has elegido",
  invitation: "Muestra una sola planta, de cerca y enfocada",
  choose: "Elegir una foto",
  another: "Elegir otra foto",
  camera: "Hacer una foto",
  hint: "o suéltala en cualquier lugar de esta página, o pégala",
  hintTouch: "JPEG, PNG o WebP, de cualquier tamaño",
  region: "¿Dónde crecía?",
  regionHint: "El lugar donde crece silvestre hace más probables unas especies que otras.",
  garden: "En un jardín, o no lo sé",
  answer: "Respuesta",
  loading: "Cargando el modelo…",
  loadingOf: (percent) => `Cargando el modelo, ${percent}\u00a0%`,
  ready: "Listo.",
  working: "Mirando la foto…",
  waiting: [
    "Aquí aparecerán las cinco especies más probables, cada una con su grado de certeza.",
    "Si la foto no dice lo bastante, se dirá, en lugar de adivinar.",
  ],
  notConclusive: "No concluyente",
  offList: "No parece una de las plantas de esta lista",
  offListHint: "Puede que no sea una planta, o que sea una que esta página no conoce.",
  sure: (percent) => `Certeza: ${percent}`,
  percent: (p) => (p > 0.99 ? "más del 99\u00a0%" : p < 0.01 ? "menos del 1\u00a0%" : `${floor(p)}\u00a0%`),
  doubt: (name, percent) => ["Podría ser ", { latin: name }, `, pero ${percent} es demasiado poco para fiarse.`],
  candidate: (name, percent) => ["La más probable es ", { latin: name }, ` (${percent}).`],
  promise: (share) => `Las respuestas concluyentes aciertan al menos en el ${floor(share)}\u00a0% de los casos.`,
  taxonVerdict: (taxon) => `Una especie de ${taxon}`,
  taxon: (rank, taxon, percent, name) => [
    rank === "genus" ? "El género es " : "La familia es ", { latin: taxon }, ` (certeza: ${percent}); la especie no es concluyente. La más probable: `, { latin: name }, ".",
  ],
  next: "Qué ayuda",
  tips: [
    "Una sola planta que llene la imagen, sin nada más enfocado.",
    "Una flor de frente; hojas o frutos si no hay flor.",
    "Luz de día, sin flash y con pulso firme.",
  ],
  species: "Especies más probables",
  legend: (percent) => `Por debajo del ${percent} una especie no es concluyente.`,
  noThreshold: "Ninguna especie cuenta como concluyente: no se ha podido demostrar que este modelo acierte lo bastante.",
  took: (ms, backend) => `Respondido en ${ms} ms en este dispositivo (${backend}).`,
  count: (n) => `${n.toLocaleString("es")} especies.`,
  proof: (n, browser, backend) =>
    `Comprobado con el modelo de Python en ${n.toLocaleString("es")} fotos, en ${browser} con ${backend}`,
  sameAnswers: ": las mismas respuestas.",
  otherBrowser: (name) => `; no en este navegador (${name}).`,
  otherBackend: (name) => `; no con ${name}, que se usa aquí.`,
  privacy: "Funciona en tu navegador con TensorFlow.js; no se envía nada a ninguna parte.",
  offline: "A partir de ahora funciona sin conexión.",
  licences: "Licencias",
  attribution: "De quién son las fotos con que aprendió",
  retry: "Reintentar",
  notLoaded: (why) => `No se ha podido cargar el modelo: ${why}.`,
  notRead: (file, why) => `«${file}»: ${why}.`,
  noPhotoPasted: "Lo que has pegado no contiene ninguna foto.",
  answered: (verdict, percent) => `${verdict}, certeza: ${percent}.`,
  script: "Esta página necesita JavaScript: la planta se reconoce en tu propio dispositivo.",
};

const unusual = {
  en: "it is a JPEG of a kind that browsers don't read. Please save it as an ordinary JPEG",
  es: "es un JPEG de un tipo que los navegadores no leen. Guárdalo como un JPEG corriente",
};

const avif = {
  en: "this page can't read animated or transparent AVIF. Please choose a JPEG",
  es: "esta página no sabe leer AVIF con animación o transparencia. Elige un JPEG",
};

/** Reasons why a photo or the model failed, as worker.js and Python (data/first_bytes.py) name them. */
const reasons = {
  "not a photo": {
    en: "this is no photo that this page can read. Please choose a JPEG, PNG or WebP photo",
    es: "no es una foto que esta página sepa leer. Elige una foto JPEG, PNG o WebP",
  },
  HEIC: {
    en: "this page can't read HEIC. Please choose a JPEG, or let your phone take photos as JPEG (“most compatible”)",
    es: "esta página no sabe leer HEIC. Elige un JPEG, o haz que tu teléfono guarde las fotos en JPEG («más compatible»)",
  },
  "cut off": {
    en: "its end is missing. Please copy or download the photo again",
    es: "le falta el final. Vuelve a copiar o descargar la foto",
  },
  damaged: {
    en: "it is damaged, or of a kind that this browser can't read. Please choose another photo, best a JPEG",
    es: "está dañada o es de un tipo que este navegador no sabe leer. Elige otra foto, mejor un JPEG",
  },
  "12 bits": unusual,
  lossless: unusual,
  "arithmetic coding": unusual,
  "other colours": {
    en: "its colours are not those of ordinary photos (HDR or a wide gamut). Please save it as an ordinary JPEG",
    es: "sus colores no son los de una foto corriente (HDR o gama amplia). Guárdala como un JPEG corriente",
  },
  "transparent AVIF": avif,
  "animated AVIF": avif,
  "protected canvas": {
    en: "this browser protects its canvas, which a photo of this kind needs. Please choose a JPEG, PNG or WebP photo",
    es: "este navegador protege su lienzo, que una foto de este tipo necesita. Elige una foto JPEG, PNG o WebP",
  },
  "too small": {
    en: "it is too small to tell a plant. Please choose a larger photo",
    es: "es demasiado pequeña para reconocer una planta. Elige una foto más grande",
  },
  "too large": {
    en: "it has more pixels than can be looked at. Please choose a smaller photo",
    es: "tiene más píxeles de los que se pueden mirar. Elige una foto más pequeña",
  },
  "no connection": { en: "the connection was lost", es: "se ha perdido la conexión" },
};

export const messages = { en, es };

// By the page's place: other pages of the same host share the storage.
const KEY = `language ${new URL("./", import.meta.url).pathname}`;

/** The visitor's language: as chosen before, else the first of the browser's that the page speaks. */
export function preferred() {
  const wanted = [localStorage.getItem(KEY), ...navigator.languages].filter(Boolean);
  return wanted.map((tag) => tag.slice(0, 2)).find((tag) => tag in messages) ?? "en";
}

export function prefer(language) {
  localStorage.setItem(KEY, language);
}

export function reason(error, language) {
  return reasons[error.message]?.[language] ?? error.message;
}
