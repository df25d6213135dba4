// The page's script: eslint's own recommended rules, and that it stays one small file without a framework.
import { createRequire } from "node:module";

const js = createRequire(process.argv[1])("@eslint/js"); // which comes with eslint
const browser = ["document", "devicePixelRatio", "EventSource", "fetch", "Image", "location", "matchMedia", "setInterval", "setTimeout", "URLSearchParams"];

export default [
  js.configs.recommended,
  {
    languageOptions: {
      sourceType: "script",
      globals: Object.fromEntries([...browser, "token"].map(name => [name, "readonly"])), // the page says what the token is
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      "max-lines": ["error", { max: 600 }],
      "no-else-return": "error",
      "no-undef-init": "error",
      "no-unused-expressions": "error",
      "no-use-before-define": ["error", { functions: false, variables: false }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
    },
  },
];
