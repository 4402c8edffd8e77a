/** The views of the application, which server and client render. */

import { StrictMode } from "react";
import { HeadwayJob } from "headway-live/react";
import { Export } from "./Export";
import { ExportStatus } from "./ExportStatus";
import { Exports } from "./Exports";

interface Job {
  token: string | null;
  url: string;
}

export interface Scene extends Job {
  view: keyof typeof views;
}

declare global {
  interface Window {
    received: [callback: string, detail: string][];
  }
}

const views = {
  component: ({ token }: Job) => token && <Export key={token} token={token} />,
  hook: ({ token }: Job) => <ExportStatus token={token} />,
  list: () => <Exports />,
  tag: ({ token, url }: Job) => (
    <headway-job token={token} url={url} onheadway-end={({ detail }) => console.log(detail.status)}>
      Export of March
    </headway-job>
  ),
  callbacks: ({ token, url }: Job) => (
    <HeadwayJob
      token={token}
      url={url}
      className="export"
      ref={(element) => void Object.assign(window, { element })}
      onChange={({ status }) => window.received.push(["onChange", status])}
      onEnd={({ status }) => window.received.push(["onEnd", status])}
      onError={({ code }) => window.received.push(["onError", code])}
    />
  ),
};

export function App({ view, ...job }: Scene) {
  const View = views[view];
  return (
    <StrictMode>
      <View {...job} />
    </StrictMode>
  );
}
