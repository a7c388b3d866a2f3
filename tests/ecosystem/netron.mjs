// Reads a model with Netron's own parser and prints the operators of its graph and their number, as JSON.
//
//     node netron.mjs FOLDER_OF_NETRON MODEL

import * as fs from 'fs';
import * as path from 'path';
import { pathToFileURL } from 'url';

const [, , source, file] = process.argv;
const load = (name) => import(pathToFileURL(path.join(source, `${name}.js`)).href);
const { ModelFactoryService } = await load('view');
const { FileStream } = await load('node');

const host = {
    environment: () => null,
    require: (id) => load(id),
    event: () => {},
    event_view: () => {},
    exception: (error) => { throw error; }
};

const open = (name) => {
    const { size, mtimeMs } = fs.statSync(name);
    return new FileStream(name, 0, size, mtimeMs);
};
const context = {
    identifier: path.basename(file),
    stream: open(file),
    entries: new Map(),
    tags: new Map(),
    fetch: (name) => open(path.join(path.dirname(file), name)),
    asset: (name) => fs.promises.readFile(path.join(source, name), 'utf-8'),
    require: (id) => load(id),
    error: (error) => { throw error; }
};

const model = await new ModelFactoryService(host).open(context);
const graph = model.modules ? model.modules[0] : model.graphs[0];
const count = {};
for (const node of graph.nodes) {
    count[node.type.name] = (count[node.type.name] || 0) + 1;
}
const names = (values) => values.map((value) => value.name);
console.log(JSON.stringify({ format: model.format, inputs: names(graph.inputs), outputs: names(graph.outputs), count }));
