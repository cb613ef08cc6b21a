#include "report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html_page.h"

namespace d2q {
namespace {

// Units of the view box; a page shows one as about a pixel.
constexpr double kWidth = 400.0;
constexpr double kHeight = 270.0;
constexpr double kLeft = 62.0;
constexpr double kRight = 12.0;
constexpr double kTop = 12.0;
constexpr double kBottom = 44.0;
constexpr int kColours = 8;  // of the style sheet

/// From values to the view box.
class Scale {
 public:
  Scale(double low, double high, double from, double to, bool logarithmic)
      : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {}
  double operator()(double value) const {
    const double share = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_)
                                      : (value - low_) / (high_ - low_);
    return from_ + share * (to_ - from_);
  }

 private:
  double low_, high_, from_, to_;
  bool logarithmic_;
};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  /// So that no value lies on the edge and equal values have room.
  void widen(bool logarithmic) {
    if (logarithmic) {
      const double factor = std::pow(high / low, 0.06) * 1.02;
      low /= factor;
      high *= factor;
    } else {
      const double margin =
          high > low ? 0.06 * (high - low) : std::max(1e-12, 0.1 * std::fabs(high));
      // Quantities that cannot be negative start at zero when they come near it.
      low = low >= 0.0 && low < 0.4 * high ? 0.0 : low - margin;
      high += margin;
    }
  }
};

std::string tick_text(double value) {
  const double size = std::fabs(value);
  if (size >= 1e5 || (size > 0.0 && size < 1e-3)) return fmt::format("{:.0e}", value);
  return fmt::format("{:.4g}", value);
}

bool is_shown(const ChartPoint& point, const ChartAxes& axes) {
  return std::isfinite(point.x) && std::isfinite(point.y) && (!axes.log_y || point.y > 0.0);
}

std::string open_svg(const ChartAxes& axes, double height) {
  return fmt::format(
      "<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\" "
      "xmlns=\"http://www.w3.org/2000/"
      "svg\">",
      kWidth, height, escape_html(axes.title));
}

std::string figure(const ChartAxes& axes, const std::string& svg, const std::string& legend) {
  return fmt::format("<figure><figcaption>{}</figcaption><div class=\"plot\">{}</div>{}</figure>\n",
                     escape_html(axes.title), svg, legend);
}

std::string draw_axes(const ChartAxes& axes, const Range& x, const Range& y, const Scale& to_x,
                      const Scale& to_y) {
  std::string svg;
  for (const double tick : chart_ticks(y.low, y.high, 6, axes.log_y)) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
        kLeft, kWidth - kRight, to_y(tick), to_y(tick), kLeft - 6, to_y(tick) + 4, tick_text(tick));
  }
  for (const double tick : chart_ticks(x.low, x.high, 7, false)) {
    svg += fmt::format(
        "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4}</text>",
        to_x(tick), kHeight - kBottom, kHeight - kBottom + 4, kHeight - kBottom + 16,
        tick_text(tick));
  }
  svg += fmt::format(
      "<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>"
      "<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>"
      "<text class=\"label\" transform=\"translate(14 {:.1f}) rotate(-90)\" "
      "text-anchor=\"middle\">{}</text>",
      kLeft, kTop, kHeight - kBottom, kWidth - kRight, (kLeft + kWidth - kRight) / 2, kHeight - 8,
      escape_html(axes.x_label), (kTop + kHeight - kBottom) / 2, escape_html(axes.y_label));
  return svg;
}

}  // namespace

std::vector<double> chart_ticks(double low, double high, int most, bool logarithmic) {
  std::vector<double> ticks;
  if (!(low < high) || most < 1) return ticks;
  if (logarithmic && high / low >= 10.0) {
    for (const std::vector<double>& steps :
         {std::vector<double>{1.0, 2.0, 5.0}, std::vector<double>{1.0, 3.0},
          std::vector<double>{1.0}}) {
      ticks.clear();
      for (double decade = std::floor(std::log10(low)); decade <= std::ceil(std::log10(high));
           ++decade) {
        for (const double step : steps) {
          const double tick = step * std::pow(10.0, decade);
          if (tick >= low && tick <= high) ticks.push_back(tick);
        }
      }
      if (static_cast<int>(ticks.size()) <= most) return ticks;
    }
    const size_t stride =
        (ticks.size() + static_cast<size_t>(most) - 1) / static_cast<size_t>(most);
    std::vector<double> fewer;
    for (size_t i = 0; i < ticks.size(); i += stride) fewer.push_back(ticks[i]);
    return fewer;
  }
  const double raw = (high - low) / most;
  const double decade = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10.0 * decade;
  for (const double round : {1.0, 2.0, 5.0}) {
    if (round * decade >= raw) {
      step = round * decade;
      break;
    }
  }
  for (double n = std::ceil(low / step); n * step <= high; ++n) ticks.push_back(n * step);
  return ticks;
}

std::string line_chart(const ChartAxes& axes, const std::vector<ChartSeries>& series, bool lines) {
  Range x;
  Range y;
  for (const ChartSeries& one : series) {
    for (const ChartPoint& point : one.points) {
      if (!is_shown(point, axes)) continue;
      x.add(point.x);
      y.add(point.y);
    }
  }
  if (x.empty()) return "";
  x.widen(false);
  y.widen(axes.log_y);
  const Scale to_x(x.low, x.high, kLeft, kWidth - kRight, false);
  const Scale to_y(y.low, y.high, kHeight - kBottom, kTop, axes.log_y);
  std::string svg = open_svg(axes, kHeight) + draw_axes(axes, x, y, to_x, to_y);
  std::string legend = "<p class=\"legend\">";
  for (size_t i = 0; i < series.size(); ++i) {
    const int colour = static_cast<int>(i) % kColours;
    std::string path;
    std::string marks;
    for (const ChartPoint& point : series[i].points) {
      if (!is_shown(point, axes)) continue;
      path +=
          fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", to_x(point.x), to_y(point.y));
      marks +=
          fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}</title></circle>",
                      to_x(point.x), to_y(point.y), lines ? 3.2 : 6.0, escape_html(point.title));
    }
    if (path.empty()) continue;
    svg += fmt::format("<g class=\"c{}\">", colour);
    if (lines) svg += "<path d=\"" + path + "\"/>";
    svg += marks + "</g>";
    legend +=
        fmt::format("<span class=\"c{}\"><i></i>{}</span> ", colour, escape_html(series[i].name));
  }
  return figure(axes, svg + "</svg>", legend + "</p>");
}

std::string bar_chart(const ChartAxes& axes, const std::vector<ChartBar>& bars) {
  constexpr double kBar = 26.0;
  constexpr double kText = 112.0;  // for labels
  constexpr double kValue = 78.0;  // for the values beside the bars
  double most = 0.0;
  for (const ChartBar& bar : bars)
    if (std::isfinite(bar.value)) most = std::max(most, bar.value);
  if (most <= 0.0) return "";
  const double bottom = kTop + kBar * static_cast<double>(bars.size());
  const Scale to_x(0.0, most, kText, kWidth - kValue, false);
  std::string svg = open_svg(axes, bottom + kBottom);
  for (const double tick : chart_ticks(0.0, most, 5, false)) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4}</text>",
        to_x(tick), kTop, bottom, bottom + 16, tick_text(tick));
  }
  for (size_t i = 0; i < bars.size(); ++i) {
    const ChartBar& bar = bars[i];
    const double y = kTop + kBar * static_cast<double>(i);
    const double end = std::isfinite(bar.value) ? to_x(std::max(0.0, bar.value)) : kText;
    svg += fmt::format(
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
        "<g class=\"c{}\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\">"
        "<title>{}: {}</title></rect></g><text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
        kText - 6, y + 17, escape_html(bar.label), i % static_cast<size_t>(kColours), kText, y + 4,
        end - kText, kBar - 8, escape_html(bar.label), escape_html(bar.text), end + 6, y + 17,
        escape_html(bar.text));
  }
  svg += fmt::format(
      "<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text></svg>",
      (kText + kWidth - kValue) / 2, bottom + 36, escape_html(axes.y_label));
  return figure(axes, svg, "");
}

}  // namespace d2q
