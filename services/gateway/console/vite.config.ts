import { defineConfig } from "vite";

// `npm run dev` serves the sources and passes calls on to the gateway of a running suite.
const gateway = process.env.REELHAUL_GATEWAY ?? "http://127.0.0.1:8080";

export default defineConfig({
  // Relative, so that the console also works below a path of a reverse proxy.
  base: "./",
  build: {
    outDir: "../reelhaul_gateway/static/console",
    emptyOutDir: true,
    assetsDir: "",
    // One script and one style sheet: together smaller than most pictures.
    cssCodeSplit: false,
    modulePreload: false,
    // No data: URLs in the style sheet, which the content security policy refuses.
    assetsInlineLimit: 0,
    target: "es2022",
    // The licenses of what the script contains.
    license: { fileName: "licenses.md" },
  },
  experimental: {
    // The page is served at /, and what it loads at /console/.
    renderBuiltUrl: (filename, { hostType }) =>
      hostType === "html" ? `console/${filename}` : { relative: true },
  },
  server: {
    proxy: Object.fromEntries(
      ["/v1", "/api", "/health"].map((path) => [path, { target: gateway, changeOrigin: true }]),
    ),
  },
});
