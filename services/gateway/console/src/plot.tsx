/** A plot over time, with a table of the same numbers for those who cannot see it. */

import { useEffect, useId, useRef } from "preact/hooks";
import uPlot from "uplot";
import { formatShortTime } from "./format";

export interface Series {
  label: string;
  /** Name of a colour of style.css, e.g. "good". */
  color: string;
  values: number[];
}

interface PlotProps {
  title: string;
  /** Seconds since 1970. */
  times: number[];
  series: Series[];
  format: (value: number) => string;
}

const HEIGHT = 180;

export function Plot({ title, times, series, format }: PlotProps) {
  const holder = useRef<HTMLDivElement>(null);
  const id = useId();
  useEffect(() => {
    const element = holder.current;
    if (!element) return;
    const plot = new uPlot(options(element, series, format), [times, ...series.map(({ values }) => values)], element);
    const resized = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      plot.destroy();
    };
  }, [times, series]);
  return (
    <section class="card" aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      <div class="plot" ref={holder} aria-hidden="true" />
      <details>
        <summary>
          As a table<span class="visually-hidden">: {title}</span>
        </summary>
        <div class="scroll" tabIndex={0} role="region" aria-label={`Table: ${title}`}>
          <table>
            <thead>
              <tr>
                <th scope="col">From</th>
                {series.map(({ label }) => (
                  <th key={label} scope="col">
                    {label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {times.map((time, index) => (
                <tr key={time}>
                  <td>{formatShortTime(new Date(time * 1000).toISOString())}</td>
                  {series.map(({ label, values }) => (
                    <td key={label}>{format(values[index] ?? 0)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </section>
  );
}

function options(element: HTMLElement, series: Series[], format: (value: number) => string): uPlot.Options {
  const style = getComputedStyle(element);
  const color = (name: string) => style.getPropertyValue(`--${name}`).trim();
  const axis = { stroke: color("muted"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false } };
  const bars = uPlot.paths.bars?.({ size: [0.7, 40] });
  return {
    width: element.clientWidth,
    height: HEIGHT,
    cursor: { points: { show: false } },
    axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => format(tick)) }],
    scales: { y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
    series: [
      {},
      ...series.map(({ label, color: name }) => ({
        label,
        stroke: color(name),
        ...(series.length === 1 ? { fill: color(name), ...(bars ? { paths: bars } : {}) } : { width: 2 }),
        points: { show: false },
        value: (_: uPlot, value: number | null) => (value === null ? "–" : format(value)),
      })),
    ],
  };
}
