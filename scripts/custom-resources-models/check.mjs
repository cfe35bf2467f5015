// Validates resources strictly: their values by the models' own checks, and by the compiler that they have what has to be
// there and nothing that is not known, which those checks let pass. Used by scripts/custom-resources.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const modules = {
    "keda.sh/v1alpha1 ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "monitoring.coreos.com/v1 PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
};

const home = dirname(fileURLToPath(import.meta.url));
const problems = [];
const source = [];
for (const resource of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
    const { apiVersion, kind } = resource;
    const module = modules[`${apiVersion} ${kind}`];
    if (module === undefined) {
        problems.push(`${apiVersion} ${kind}: is not known`);
        continue;
    }
    const models = await import(module);
    try {
        new models[kind](resource).validate();
    } catch (error) {
        problems.push(`${kind}: ${error.message}`);
    }
    const name = `I${kind}`;
    source.push(
        `import type { ${name} as Type${source.length} } from "${module}";`,
        `export const value${source.length}: Type${source.length} = ${JSON.stringify(resource, null, 2)};`,
    );
}

const work = mkdtempSync(join(home, "run."));
try {
    const file = join(work, "resources.ts");
    writeFileSync(file, source.join("\n"));
    const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--ignoreConfig"];
    const compiler = join(home, "node_modules/typescript/bin/tsc");
    execFileSync(process.execPath, [compiler, ...options, file], { cwd: home, encoding: "utf8" });
} catch (error) {
    problems.push(error.stdout || error.message);
} finally {
    rmSync(work, { recursive: true });
}

for (const problem of problems) console.error(`custom resources: ${problem}`);
process.exitCode = problems.length > 0 ? 1 : 0;
