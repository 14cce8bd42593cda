// What people's tests do with Testcontainers: a container with a port and a log line to wait for, files in and out, commands,
// networks with aliases, a health check, a built image, reuse of nothing, and everything gone at the end.
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GenericContainer, Network, Wait } from "testcontainers";

const page = (text) => ["sh", "-c", `mkdir -p /www && echo ${text} > /www/index.html && echo ready && exec httpd -f -p 80 -h /www`];
const said = async (container) => {
  const answer = await fetch(`http://${container.getHost()}:${container.getMappedPort(80)}/index.html`);
  return (await answer.text()).trim();
};
const step = async (name, work) => {
  await work();
  console.log(`ok ${name}`);
};

await step("a port, by a log line", async () => {
  const container = await new GenericContainer("busybox:latest")
    .withCommand(page("one"))
    .withExposedPorts(80)
    .withEnvironment({ COLOUR: "red" })
    .withLabels({ suite: "conform" })
    .withCopyContentToContainer([{ content: "from the test", target: "/tmp/given" }])
    .withWaitStrategy(Wait.forLogMessage("ready"))
    .start();
  assert.equal(await said(container), "one");
  const run = await container.exec(["sh", "-c", "echo $COLOUR; cat /tmp/given; exit 3"]);
  assert.deepEqual([run.output, run.exitCode], ["red\nfrom the test", 3]);
  await container.copyContentToContainer([{ content: "later", target: "/tmp/later" }]);
  assert.equal((await container.exec(["cat", "/tmp/later"])).output, "later");
  let bytes = 0;
  for await (const piece of await container.copyArchiveFromContainer("/www")) bytes += piece.length;
  assert.ok(bytes > 512);
  let log = "";
  const logs = await container.logs();
  await new Promise((resolve) => logs.on("data", (line) => { log += line; if (log.includes("ready")) resolve(); }));
  assert.equal(container.getLabels().suite, "conform");
  await container.restart();
  await container.stop();
});

await step("a port, by HTTP", async () => {
  const container = await new GenericContainer("busybox:latest")
    .withCommand(page("two")).withExposedPorts(80).withWaitStrategy(Wait.forHttp("/index.html", 80)).start();
  assert.equal(await said(container), "two");
  await container.stop();
});

await step("a port, by the port itself", async () => {
  const container = await new GenericContainer("busybox:latest")
    .withCommand(page("three")).withExposedPorts(80).withWaitStrategy(Wait.forListeningPorts()).start();
  assert.equal(await said(container), "three");
  await container.stop();
});

await step("a health check", async () => {
  const container = await new GenericContainer("busybox:latest")
    .withCommand(page("four")).withExposedPorts(80)
    .withHealthCheck({ test: ["CMD-SHELL", "wget -qO /dev/null http://127.0.0.1/index.html"], interval: 200, timeout: 2000, retries: 20 })
    .withWaitStrategy(Wait.forHealthCheck()).start();
  assert.equal(await said(container), "four");
  await container.stop();
});

await step("a one-shot", async () => {
  const container = await new GenericContainer("busybox:latest")
    .withCommand(["sh", "-c", "echo done"]).withWaitStrategy(Wait.forOneShotStartup()).start();
  await container.stop();
});

await step("a network with names", async () => {
  const network = await new Network().start();
  const web = await new GenericContainer("busybox:latest")
    .withNetwork(network).withNetworkAliases("web").withCommand(page("five")).withWaitStrategy(Wait.forLogMessage("ready")).start();
  const client = await new GenericContainer("busybox:latest")
    .withNetwork(network).withTmpFs({ "/scratch": "rw,size=1m" }).withUser("1000").withCommand(["sleep", "1000"]).start();
  assert.equal((await client.exec(["wget", "-qO-", "http://web/index.html"])).output.trim(), "five");
  assert.ok(web.getIpAddress(network.getName()).includes("."));
  await client.stop();
  await web.stop();
  await network.stop();
});

await step("an image of one's own", async () => {
  const directory = mkdtempSync(join(tmpdir(), "conform-"));
  writeFileSync(join(directory, "Dockerfile"), "FROM busybox:latest\nARG WORD=none\nRUN echo $WORD > /word\nCMD [\"sleep\", \"1000\"]\n");
  const image = await GenericContainer.fromDockerfile(directory).withBuildArgs({ WORD: "six" }).build();
  const container = await image.start();
  assert.equal((await container.exec(["cat", "/word"])).output.trim(), "six");
  const committed = await container.commit({ repo: "conform-committed", tag: "1" });
  assert.ok(committed);
  await container.stop();
});

await step("a start that fails says why", async () => {
  await assert.rejects(new GenericContainer("busybox:latest").withCommand(["/no/such/program"]).start(), /no such file or directory|not found/);
  await assert.rejects(
    new GenericContainer("busybox:latest").withCommand(["sleep", "1000"]).withStartupTimeout(1500)
      .withWaitStrategy(Wait.forLogMessage("never")).start(), /never/);
});

console.log("everything passed");
process.exit(0);
