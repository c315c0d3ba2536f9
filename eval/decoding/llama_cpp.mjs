// Decodes greedily with llama.cpp: a JSON line for each prompt on stdin, one for its answer on stdout.
import { createInterface } from "node:readline";
import { getLlama, InputLookupTokenPredictor } from "node-llama-cpp";

process.execArgv = []; // or the processes that the library starts would run this script
const [file, threads, lookup, contextSize] = process.argv.slice(1);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ threads: Number(threads), contextSize: Number(contextSize) });
const predictor = lookup === "true" ? new InputLookupTokenPredictor() : undefined;
const sequence = context.getSequence({ tokenPredictor: predictor });
const write = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");

write({});
for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, max_new_tokens } = JSON.parse(line);
  await sequence.clearHistory();
  predictor?.updateInputTokens(prompt);
  const tokens = [];
  const looked = sequence.tokenPredictions.used;
  const start = performance.now();
  let first = start;
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (tokens.length === 0) first = performance.now();
    tokens.push(token);
    if (tokens.length === max_new_tokens || model.isEogToken(token)) break;
  }
  write({
    tokens,
    steps: tokens.length - (sequence.tokenPredictions.used - looked),
    seconds: (performance.now() - start) / 1000,
    first_token_seconds: (first - start) / 1000,
    memory: process.memoryUsage().rss,
  });
}
