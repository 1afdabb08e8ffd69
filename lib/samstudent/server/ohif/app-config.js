// OHIF's configuration on this server, in place of the one that MONAI Label ships. Its MONAI Label mode there cannot save
// what was drawn, nor correct it by hand; here it has OHIF's own segmentation panel, too.

// MONAI Label's panel reads its server's address from this cookie, else takes port 8000. Cookies do not know ports: what
// another server on this machine has left must not be believed either.
document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(`${window.location.origin}/`)}`;

/** A button of the segmentation panel: one of the mode's brushes, in a circle or a sphere, with its radius. */
const brush = (id, icon) => {
  const toolNames = [`Circular${id}`, `Sphere${id}`];
  return {
    id,
    icon,
    label: id,
    evaluate: { name: 'evaluate.cornerstone.segmentation', toolNames },
    options: [
      {
        name: 'Radius (mm)', id: `${id.toLowerCase()}-radius`, type: 'range', min: 0.5, max: 99.5, step: 0.5, value: 10,
        commands: { commandName: 'setBrushSize', commandOptions: { toolNames } },
      },
      {
        name: 'Shape', type: 'radio', id: `${id.toLowerCase()}-mode`, value: toolNames[0],
        values: [{ value: toolNames[0], label: 'Circle' }, { value: toolNames[1], label: 'Sphere' }],
        commands: 'setToolActiveToolbar',
      },
    ],
  };
};

const brushes = {
  id: 'BrushTools',
  uiType: 'ohif.buttonGroup',
  props: { groupId: 'BrushTools', items: [brush('Brush', 'icon-tool-brush'), brush('Eraser', 'icon-tool-eraser')] },
};

const scissors = ['CircleScissor', 'SphereScissor', 'RectangleScissor'];
const shapes = {
  id: 'Shapes',
  uiType: 'ohif.radioGroup',
  props: {
    label: 'Shapes',
    icon: 'icon-tool-shape',
    evaluate: { name: 'evaluate.cornerstone.segmentation', toolNames: scissors },
    options: [
      {
        name: 'Shape', type: 'radio', id: 'shape-mode', value: scissors[0],
        values: scissors.map((value) => ({ value, label: value.replace('Scissor', '') })),
        commands: 'setToolActiveToolbar',
      },
    ],
  },
};

/**
 * Let "Export DICOM SEG" store what was drawn. OHIF has two commands of this name, and the one that the panel reaches is
 * not told where to store, and fails without a word.
 */
const mendExport = ({ servicesManager, extensionManager, commandsManager }) => {
  const shipped = commandsManager.getCommand('storeSegmentation');
  if (!shipped || shipped.mended) {
    return;
  }
  const { uiNotificationService } = servicesManager.services;
  const tell = (type, message) => uiNotificationService.show({ title: 'Export DICOM SEG', type, message });
  const store = shipped.commandFn;
  shipped.mended = true;
  shipped.commandFn = async (options) => {
    const [active] = extensionManager.getActiveDataSource();
    try {
      const stored = await store({ ...options, dataSource: options.dataSource ?? active });
      if (stored) {
        tell('success', 'Stored in the PACS.');
      }
      return stored;
    } catch (error) {
      tell('error', `Not stored: ${error?.message || error?.response || 'the PACS did not take it'}`);
      return undefined;
    }
  };
};

/** The shipped mode under its own id, so that OHIF leaves out the other. */
const monaiLabel = {
  id: '@ohif/mode-monai-label',
  async modeFactory({ modeConfiguration, loadModules }) {
    const [shipped] = await loadModules(['@ohif/mode-monai-label']);
    const mode = shipped.modeFactory({ modeConfiguration });
    const [route] = mode.routes;
    return {
      ...mode,
      onModeEnter(services) {
        // The shipped mode names these two for the panel's toolbox, and does not have them.
        services.servicesManager.services.toolbarService.addButtons([brushes, shapes]);
        mode.onModeEnter(services);
        mendExport(services);
      },
      isValidMode: (study) => ({
        ...mode.isValidMode(study),
        description: 'Volumes only (CT, MR). Radiographs are reviewed and accepted on the page at /samstudent/',
      }),
      routes: [
        {
          ...route,
          layoutTemplate(context) {
            const layout = route.layoutTemplate(context);
            const panel = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
            // Not beside MONAI Label's, which forgets its connection and clicks when another tab is looked at.
            layout.props.leftPanels = [...layout.props.leftPanels, panel];
            return layout;
          },
        },
      ],
    };
  },
};

window.config = {
  routerBasename: '/ohif/',
  showStudyList: true,
  extensions: [],
  modes: [monaiLabel],
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        wadoUriRoot: '/proxy/dicom/wado',
        qidoRoot: '/proxy/dicom/qido',
        wadoRoot: '/proxy/dicom/wado',
        qidoSupportsIncludeField: true,
        supportsReject: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        dicomUploadEnabled: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
