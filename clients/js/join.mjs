// Joins the modules that tsc wrote to FOLDER/modules into one, FOLDER/notifyd.js, without comments.
// They share no names, and nothing but the client itself is exported.
import { readFileSync, writeFileSync } from "node:fs";
import ts from "typescript";

const folder = process.argv[2];
const parts = ["position", "receipts", "tabs", "link", "client"].map((name) => {
  const source = readFileSync(`${folder}/modules/${name}.js`, "utf8");
  const isOurs = (statement) => statement.moduleSpecifier?.text.startsWith("./");
  const tree = ts.createSourceFile(name, source, ts.ScriptTarget.ES2022);
  const kept = tree.statements.filter((statement) => !ts.isImportDeclaration(statement) || !isOurs(statement));
  const printer = ts.createPrinter({ removeComments: true });
  const text = kept.map((statement) => printer.printNode(ts.EmitHint.Unspecified, statement, tree)).join("\n");
  return name === "client" ? text : text.replace(/^export (?=async |class |const |function )/gm, "");
});
const head = "// notifyd's push client, built from clients/js. Apache License 2.0.\n";
const text = parts.join("\n").replace(/^(?: {4})+/gm, (spaces) => spaces.slice(0, spaces.length / 4));
writeFileSync(`${folder}/notifyd.js`, `${head}${text}\n`);
